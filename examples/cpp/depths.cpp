// Runs what `adaptive-depth export --to onnx` wrote, one file with many depths, with ONNX Runtime's C++ interface.
//
//     depths model.onnx input.f32              every depth: its outputs and its latency here
//     depths model.onnx input.f32 TTFF FFFF    these depths
//     depths model.onnx input.f32 --target-ms 12    the best depth, by the file's table, that meets the deadline here
//
// input.f32 holds numbers of [1, channels, height, width] as float32, little-endian, such as Python's
// `prepare(image, session.artifact.preprocessing).tofile("input.f32")` writes them. The description is read from
// model.onnx.json beside the file, which also has a checksum of the model.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

using nlohmann::json;

namespace {

constexpr int kNewestVersion = 4;  // of a description that this program reads
constexpr int kRounds = 5;

std::vector<char> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read: expected a file that adaptive-depth export wrote");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string Crc32(const std::vector<char>& bytes) {
  std::uint32_t value = 0xffffffffu;
  for (unsigned char byte : bytes) {
    value ^= byte;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0xedb88320u : 0);
  }
  char text[9];
  std::snprintf(text, sizeof text, "%08x", value ^ 0xffffffffu);
  return text;
}

std::string NameOf(const std::string& path) { return path.substr(path.find_last_of("/\\") + 1); }

// The file's description, after checking that it belongs to this file.
json ReadSidecar(const std::string& path, const std::vector<char>& model) {
  const std::string beside = path + ".json";
  json said;
  try {
    said = json::parse(ReadFile(beside));
    if (said.at("format") != "adaptive-depth artifact") throw std::runtime_error("it was written by another program");
    if (said.at("version").get<int>() > kNewestVersion) throw std::runtime_error("it is newer than this program");
    const json& told = said.at("files").at(NameOf(path));
    if (told.at("bytes") != model.size() || told.at("crc32") != Crc32(model)) {
      throw std::runtime_error(path + " is damaged or from another export: copy both files again");
    }
    for (const auto& skip : said.at("skips")) {
      if (skip.get<std::string>().size() != said.at("stages").size()) throw std::runtime_error("a skip does not fit");
    }
  } catch (const std::exception& error) {
    throw std::runtime_error(beside + " does not describe " + path + ": " + error.what());
  }
  return said;
}

class Network {
 public:
  Network(const std::vector<char>& model, const json& said)
      : said_(said), env_(ORT_LOGGING_LEVEL_ERROR, "depths") {
    Ort::SessionOptions options;  // providers for other devices are appended here
    options.SetIntraOpNumThreads(1);
    session_ = std::make_unique<Ort::Session>(env_, model.data(), model.size(), options);
    for (const auto& side : said.at("input_shape")) shape_.push_back(side.is_null() ? 1 : side.get<std::int64_t>());
    outputs_ = said.value("outputs", std::vector<std::string>{});
    if (outputs_.empty()) outputs_ = {"logits"};
  }

  // The first output of one depth. The depth is an input like the image, so switching loads and builds nothing.
  std::vector<float> Run(std::vector<float>& x, const std::string& skip) {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const std::int64_t size = std::accumulate(shape_.begin(), shape_.end(), std::int64_t{1}, std::multiplies<>());
    if (static_cast<std::int64_t>(x.size()) != size) {
      throw std::runtime_error("the input has " + std::to_string(x.size()) + " numbers: expected " + std::to_string(size));
    }
    std::unique_ptr<bool[]> flags(new bool[skip.size()]);
    std::transform(skip.begin(), skip.end(), flags.get(), [](char letter) { return letter == 'T'; });
    const std::int64_t stages = static_cast<std::int64_t>(skip.size());
    std::array<Ort::Value, 2> inputs{
        Ort::Value::CreateTensor<float>(memory, x.data(), x.size(), shape_.data(), shape_.size()),
        Ort::Value::CreateTensor<bool>(memory, flags.get(), skip.size(), &stages, 1)};
    const char* names[] = {"image", "skip"};
    const char* wanted[] = {outputs_.front().c_str()};
    auto found = session_->Run(Ort::RunOptions{nullptr}, names, inputs.data(), inputs.size(), wanted, 1);
    const float* first = found.front().GetTensorData<float>();
    return {first, first + found.front().GetTensorTypeAndShapeInfo().GetElementCount()};
  }

  // The median of some runs, in milliseconds, after one to warm up.
  double Latency(std::vector<float>& x, const std::string& skip) {
    std::vector<double> times;
    for (int round = -1; round < kRounds; ++round) {
      const auto start = std::chrono::steady_clock::now();
      Run(x, skip);
      const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
      if (round >= 0) times.push_back(took.count());
    }
    std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
    return times[kRounds / 2];
  }

  // The best depth, by the table's quality, among those that meet the deadline on this device; the fastest if none does.
  std::string Best(std::vector<float>& x, double target_ms) {
    const json& table = said_.at("trade_offs");
    if (table.is_null()) throw std::runtime_error("the file has no table of its depths: export a run that was measured");
    const bool higher = !table.contains("quality") || table.at("quality").at("higher_is_better").get<bool>();
    std::string best, fastest;
    double best_quality = 0, least = 0;
    for (const auto& row : table.at("rows")) {
      const std::string skip = row.at("skip");
      const double quality = row.at("accuracy").get<double>() * (higher ? 1 : -1);
      const double latency = Latency(x, skip);
      if (fastest.empty() || latency < least) fastest = skip, least = latency;
      if (latency <= target_ms && (best.empty() || quality > best_quality)) best = skip, best_quality = quality;
    }
    return best.empty() ? fastest : best;
  }

  std::string Label(const std::vector<float>& output) const {
    const std::size_t place = std::max_element(output.begin(), output.end()) - output.begin();
    const auto labels = said_.value("labels", std::vector<std::string>{});
    return labels.size() == output.size() ? labels[place] : "class " + std::to_string(place);
  }

 private:
  json said_;
  Ort::Env env_;
  std::unique_ptr<Ort::Session> session_;
  std::vector<std::int64_t> shape_;
  std::vector<std::string> outputs_;
};

int Main(const std::vector<std::string>& arguments) {
  if (arguments.size() < 2) throw std::runtime_error("expected depths MODEL INPUT [SKIP ... | --target-ms N]");
  const std::string& path = arguments[0];
  const std::vector<char> model = ReadFile(path);
  const json said = ReadSidecar(path, model);
  const std::vector<char> bytes = ReadFile(arguments[1]);
  std::vector<float> x(bytes.size() / sizeof(float));
  std::copy_n(bytes.data(), x.size() * sizeof(float), reinterpret_cast<char*>(x.data()));
  Network network(model, said);

  const auto known = said.at("skips").get<std::vector<std::string>>();
  std::vector<std::string> skips(arguments.begin() + 2, arguments.end());
  if (skips.size() == 2 && skips[0] == "--target-ms") {
    skips = {network.Best(x, std::stod(skips[1]))};
  } else if (skips.empty()) {
    skips = known;
  }
  for (const auto& skip : skips) {
    if (std::find(known.begin(), known.end(), skip) == known.end()) {
      throw std::runtime_error("skip " + skip + " is not in this file: expected one of " + said.at("skips").dump());
    }
    const auto output = network.Run(x, skip);
    std::printf("%s  %.3f ms  %s ", skip.c_str(), network.Latency(x, skip), network.Label(output).c_str());
    for (float value : output) std::printf(" %.7g", value);
    std::printf("\n");
  }
  return 0;
}

}  // namespace

int main(int count, char** values) {
  try {
    return Main({values + 1, values + count});
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << "\n";
    return 2;
  }
}
