#pragma once

#include <map>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/checkpoint/hf_folder.h"
#include "common/tensor/named_tensor.h"

namespace rollcall::checkpoint {

// Fills a model's parameters, in place, from a folder: every parameter must be in the folder with
// its shape and a floating-point dtype (converted to the parameter's), and every tensor of the
// folder must be a parameter. Otherwise nothing is changed and one INVALID_ARGUMENT lists every
// missing, unexpected and ill-fitting tensor.
//
// Two kinds of surplus tensors are accepted: rotary "inv_freq" buffers, which are derived, and an
// lm_head.weight that the model ties to its embedding, if the two are equal bit for bit.
absl::Status LoadParameters(const HfFolder& folder,
                            std::span<const tensor::NamedTensor> parameters);

// Arbitrary named tensors (optimizer moments, fp32 masters) in one safetensors file, on any device,
// dtypes kept. The file is complete or absent. The names must differ.
absl::Status SaveTensors(const std::string& path, std::span<const tensor::NamedTensor> tensors,
                         const std::map<std::string, std::string>& metadata = {});

// Fills `parameters`, in place, from one safetensors file: every parameter must be in it with its
// shape and a floating-point dtype (converted), and nothing else. Otherwise nothing is changed and
// one INVALID_ARGUMENT lists every missing, unexpected and ill-fitting tensor.
absl::Status FillFromFile(const SafetensorsFile& file,
                          std::span<const tensor::NamedTensor> parameters);

// All tensors of a safetensors file as new CPU tensors.
absl::StatusOr<std::map<std::string, at::Tensor>> LoadTensors(const std::string& path);

}  // namespace rollcall::checkpoint
