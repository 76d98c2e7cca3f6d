// Written by the command export of linknet_fastai: an image to its class map, with ONNX Runtime.
//
//   g++ -std=c++17 example.cpp -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o example
//   ffmpeg -i frame.png -vf $scale -pix_fmt rgb24 frame.ppm
//   ./example $model frame.ppm mask.pgm
//
// mask.pgm has the recipe's class id of each pixel, at the size of the network.
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

constexpr int64_t kWidth = $width, kHeight = $height, kClasses = $n_classes;
constexpr std::array<uint8_t, kClasses> kIds = {$ids};  // of each channel of the network
$constants
std::vector<uint8_t> read_ppm(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, largest = 0;
  file >> magic >> width >> height >> largest;
  file.get();
  std::vector<uint8_t> pixels(kWidth * kHeight * 3);
  if (magic != "P6" || width != kWidth || height != kHeight || largest != 255 ||
      !file.read(reinterpret_cast<char*>(pixels.data()), pixels.size()))
    throw std::runtime_error(std::string(path) + ": not a binary PPM of $width x $height");
  return pixels;
}

int main(int count, char** arguments) try {
  if (count != 4) throw std::runtime_error("usage: example model.onnx frame.ppm mask.pgm");
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "linknet");
  Ort::Session session(env, arguments[1], Ort::SessionOptions());

  // Height x width x RGB becomes RGB x height x width.
  const std::vector<uint8_t> pixels = read_ppm(arguments[2]);
  std::vector<$input_type> input(pixels.size());
  for (int64_t i = 0; i < kWidth * kHeight; i++)
    for (int64_t c = 0; c < 3; c++) input[c * kWidth * kHeight + i] = $pixel;
  const std::array<int64_t, 4> shape = {1, 3, kHeight, kWidth};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto tensor = Ort::Value::CreateTensor<$input_type>(memory, input.data(), input.size(), shape.data(), shape.size());

  const char* inputs[] = {"$input"};
  const char* outputs[] = {"$output"};
  auto results = session.Run(Ort::RunOptions(), inputs, &tensor, 1, outputs, 1);
  const $output_type* values = results[0].GetTensorData<$output_type>();

  std::ofstream mask(arguments[3], std::ios::binary);
  mask << "P5\n" << kWidth << " " << kHeight << "\n255\n";
  for (int64_t i = 0; i < kWidth * kHeight; i++) {
    int64_t best = $first;
$search    mask.put(static_cast<char>(kIds[best]));
  }
  return mask ? 0 : 1;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
