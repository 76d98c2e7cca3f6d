"""`python -m linknet_fastai` is the command `linknet-fastai`."""

from linknet_fastai.cli.main import main

if __name__ == "__main__":
    main()
