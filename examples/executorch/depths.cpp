// Runs what `adaptive-depth export --to executorch` wrote, one file with many depths, with ExecuTorch's C++ interface.
//
//     depths model.pte input.f32              every depth: its latency here and its outputs
//     depths model.pte input.f32 TTFF FFFF    these depths
//     depths model.pte --describe             the file's description as JSON: classes, preprocessing, table
//
// input.f32 holds the numbers of one batch as float32, little-endian, such as Python's
// `prepare(image, session.artifact.preprocessing).tofile("input.f32")` writes them.

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

using executorch::aten::SizesType;
using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::runtime::Error;
using executorch::runtime::Result;

namespace {

constexpr char kDescription[] = "artifact";  // the method that returns the description; the others are depths
constexpr int kRounds = 5;

template <typename T>
T Value(Result<T> result, const std::string& what) {
  if (!result.ok()) {
    throw std::runtime_error(what + " (error " + std::to_string(static_cast<unsigned>(result.error())) + " of ExecuTorch)");
  }
  return std::move(result.get());
}

std::vector<char> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class Network {
 public:
  explicit Network(const std::string& path) : path_(path), module_(path, Module::LoadMode::MmapUseMlockIgnoreErrors) {
    // A damaged file may end the process later on, so its structure is checked once.
    if (module_.load(executorch::runtime::Program::Verification::InternalConsistency) != Error::Ok) {
      throw std::runtime_error(path + " cannot be loaded: expected a file that adaptive-depth export --to executorch wrote");
    }
    const auto names = Value(module_.method_names(), path + " does not name its methods");
    if (!names.count(kDescription)) throw std::runtime_error(path + " was not written by adaptive-depth");
    skips_ = {names.begin(), names.end()};
    skips_.erase(kDescription);
  }

  const std::set<std::string>& skips() const { return skips_; }

  std::string Describe() {
    const auto said = Value(module_.execute(kDescription), path_ + " does not describe itself");
    const auto text = said.at(0).toString();
    return {text.data(), text.size()};
  }

  // The first output of one depth. A depth is loaded when it first runs, and keeps a packed copy of its weights: Forget() drops it.
  std::vector<float> Run(std::vector<float>& x, const std::string& skip) {
    if (!skips_.count(skip)) {
      std::string known;
      for (const auto& each : skips_) known += (known.empty() ? "" : ", ") + each;
      throw std::runtime_error("skip " + skip + " is not in this file: expected one of " + known);
    }
    const auto meta = Value(module_.method_meta(skip), skip + " cannot be loaded");
    const auto sizes = Value(meta.input_tensor_meta(0), skip + " takes no tensor").sizes();
    const std::vector<SizesType> shape(sizes.begin(), sizes.end());
    const auto count = std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
    if (x.size() != count) {
      throw std::runtime_error("the input has " + std::to_string(x.size()) + " numbers: expected " + std::to_string(count));
    }
    const auto outputs = Value(module_.execute(skip, from_blob(x.data(), shape)), skip + " failed");
    const auto first = outputs.at(0).toTensor();
    return {first.const_data_ptr<float>(), first.const_data_ptr<float>() + first.numel()};
  }

  void Forget(const std::string& skip) { module_.unload_method(skip); }

  // The median of some runs, in milliseconds, after one that loads the depth and warms up.
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

 private:
  std::string path_;
  Module module_;
  std::set<std::string> skips_;  // in alphabetical order, so the super-net is first
};

int Main(const std::vector<std::string>& arguments) {
  if (arguments.size() < 2) throw std::runtime_error("expected depths MODEL INPUT [SKIP ...], or depths MODEL --describe");
  ReadFile(arguments[0]);  // ExecuTorch's own message does not name the file
  Network network(arguments[0]);
  if (arguments[1] == "--describe") {
    std::cout << network.Describe() << "\n";
    return 0;
  }
  const std::vector<char> bytes = ReadFile(arguments[1]);
  std::vector<float> x(bytes.size() / sizeof(float));
  std::copy_n(bytes.data(), x.size() * sizeof(float), reinterpret_cast<char*>(x.data()));

  std::vector<std::string> wanted(arguments.begin() + 2, arguments.end());
  if (wanted.empty()) wanted.assign(network.skips().begin(), network.skips().end());
  for (const auto& skip : wanted) {
    const auto output = network.Run(x, skip);
    std::printf("%s  %.3f ms ", skip.c_str(), network.Latency(x, skip));
    for (float value : output) std::printf(" %.7g", value);
    std::printf("\n");
    network.Forget(skip);
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
