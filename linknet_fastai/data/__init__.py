"""From files to DataLoaders: dataset, labels, survey, cache, augmentation, loaders, the drawn street."""
