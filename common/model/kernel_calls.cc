#include "common/model/kernel_calls.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>

#include "common/model/large_memory.h"
#include "common/model/parallel.h"

namespace rollcall::model {

using kernels::Element;

namespace {

at::TensorOptions Options(at::ScalarType type) { return at::TensorOptions().dtype(type); }

// Columns and rows of one Gemm call: at most what the kernel takes, and about four tasks a thread
// where there is so much.
struct GemmTiling {
  explicit GemmTiling(const kernels::GemmArgs& args)
      : panels(kernels::PanelCount(args.n)),
        row_blocks(kernels::CeilDiv(args.m, kernels::kRowBlock)),
        group(std::clamp<int64_t>(panels * row_blocks / 8, 1, kernels::kPanelGroup)),
        groups(kernels::CeilDiv(panels, group)) {}

  kernels::GemmRange Range(const kernels::GemmArgs& args, int64_t task) const {
    const int64_t row = task / groups * kernels::kRowBlock, panel = task % groups * group;
    return {row, std::min(args.m, row + kernels::kRowBlock), panel,
            std::min(panels, panel + group)};
  }

  int64_t panels, row_blocks, group, groups;
};

}  // namespace

Element ElementOf(const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16,
                   "expected float32 or bfloat16, got ", tensor.scalar_type());
  TORCH_CHECK_VALUE(tensor.is_contiguous() && tensor.device().is_cpu(),
                    "expected a contiguous CPU tensor");
  return tensor.scalar_type() == at::kFloat ? Element::kFloat32 : Element::kBFloat16;
}

void PackInto(const at::Tensor& w, at::Tensor& panels) {
  const int64_t n = w.size(0), k = w.size(1), count = kernels::PanelCount(n);
  if (!panels.defined() || panels.scalar_type() != w.scalar_type()) {
    // A mapping of its own wastes up to a huge page.
    constexpr int64_t kOwnMapping = int64_t{1} << 20;
    const int64_t elements = count * kernels::PanelElements(ElementOf(w), k);
    panels = elements < kOwnMapping ? at::empty({elements}, Options(w.scalar_type()))
                                    : LargeZeros({elements}, Options(w.scalar_type()));
  }
  const kernels::PackArgs args{w.const_data_ptr(), ElementOf(w), n, k, panels.mutable_data_ptr()};
  ParallelRanges(count, 1, n * k,
                 [&](int64_t begin, int64_t end) { kernels::Kernels().pack(args, begin, end); });
}

void ParallelGemms(std::span<const kernels::GemmArgs> calls) {
  std::vector<GemmTiling> tilings;
  std::vector<int64_t> first_task = {0};
  int64_t work = 0;
  for (const kernels::GemmArgs& args : calls) {
    const GemmTiling& tiling = tilings.emplace_back(args);
    first_task.push_back(first_task.back() + tiling.row_blocks * tiling.groups);
    work += args.m * args.n * args.k;
  }
  ParallelTasks(
      first_task.back(), kernels::kGemmScratchFloats, work, [&](int64_t task, float* scratch) {
        const auto after = std::upper_bound(first_task.begin(), first_task.end(), task);
        const auto call = after - first_task.begin() - 1;
        const kernels::GemmRange range = tilings[call].Range(calls[call], task - first_task[call]);
        kernels::Kernels().gemm(calls[call], range, scratch);
      });
}

kernels::GemmArgs LinearArgs(const at::Tensor& x, const Weights& w, const at::Tensor& bias,
                             at::Tensor& y) {
  const int64_t m = x.size(0), k = x.size(1), n = y.size(1);
  return {.m = m,
          .n = n,
          .k = k,
          .a = x.const_data_ptr(),
          .a_type = ElementOf(x),
          .a_row_stride = k,
          .a_depth_stride = 1,
          .b = w.tensor.const_data_ptr(),
          .b_type = ElementOf(w.tensor),
          .b_stride = w.packed ? 0 : k,
          .c = y.mutable_data_ptr(),
          .c_type = ElementOf(y),
          .c_stride = n,
          .accumulate = false,
          .bias = bias.defined() ? bias.const_data_ptr() : nullptr,
          .b_transposed = !w.packed};
}

kernels::GemmArgs LinearDxArgs(const at::Tensor& dy, const at::Tensor& w, at::Tensor& dx,
                               bool accumulate) {
  const int64_t m = dy.size(0), n = dy.size(1), k = w.size(1);
  return {.m = m,
          .n = k,
          .k = n,
          .a = dy.const_data_ptr(),
          .a_type = ElementOf(dy),
          .a_row_stride = n,
          .a_depth_stride = 1,
          .b = w.const_data_ptr(),
          .b_type = ElementOf(w),
          .b_stride = k,
          .c = dx.mutable_data_ptr(),
          .c_type = ElementOf(dx),
          .c_stride = k,
          .accumulate = accumulate,
          .bias = nullptr};
}

kernels::GemmArgs LinearDwArgs(const at::Tensor& dy, const at::Tensor& x, at::Tensor& dw,
                               bool accumulate) {
  const int64_t m = dy.size(0), n = dy.size(1), k = x.size(1);
  return {.m = n,
          .n = k,
          .k = m,
          .a = dy.const_data_ptr(),
          .a_type = ElementOf(dy),
          .a_row_stride = 1,
          .a_depth_stride = n,
          .b = x.const_data_ptr(),
          .b_type = ElementOf(x),
          .b_stride = k,
          .c = dw.mutable_data_ptr(),
          .c_type = ElementOf(dw),
          .c_stride = k,
          .accumulate = accumulate,
          .bias = nullptr};
}

at::Tensor LinearForward(const at::Tensor& x, const Weights& w, int64_t n, at::ScalarType type,
                         const at::Tensor& bias) {
  at::Tensor y = at::empty({x.size(0), n}, Options(type));
  const kernels::GemmArgs args = LinearArgs(x, w, bias, y);
  ParallelGemms({&args, 1});
  return y;
}

at::Tensor LinearDx(const at::Tensor& dy, const at::Tensor& w, at::ScalarType type) {
  at::Tensor dx = at::empty({dy.size(0), w.size(1)}, Options(type));
  const kernels::GemmArgs args = LinearDxArgs(dy, w, dx, /*accumulate=*/false);
  ParallelGemms({&args, 1});
  return dx;
}

void LinearDw(const at::Tensor& dy, const at::Tensor& x, at::Tensor& dw, bool accumulate) {
  const kernels::GemmArgs args = LinearDwArgs(dy, x, dw, accumulate);
  ParallelGemms({&args, 1});
}

at::Tensor LinearsDx(std::span<const at::Tensor> dys, std::span<const at::Tensor> ws,
                     at::ScalarType type) {
  // Each product is summed by itself and then added: one chain over all of them would round more.
  const size_t last = dys.size() - 1;
  if (last == 0) return LinearDx(dys[0], ws[0], type);
  at::Tensor sum = LinearDx(dys[last], ws[last], at::kFloat);
  for (size_t i = last; i-- > 0;) sum.add_(LinearDx(dys[i], ws[i], at::kFloat));
  return sum.to(type);
}

std::vector<at::Tensor> LinearsDw(std::span<const at::Tensor> dys, const at::Tensor& x) {
  std::vector<at::Tensor> dws;
  std::vector<kernels::GemmArgs> calls;
  for (const at::Tensor& dy : dys) {
    at::Tensor& dw = dws.emplace_back(at::empty({dy.size(1), x.size(1)}, Options(at::kFloat)));
    calls.push_back(LinearDwArgs(dy, x, dw, /*accumulate=*/false));
  }
  ParallelGemms(calls);
  return dws;
}

namespace {

template <typename T>
void SumColumns(const at::Tensor& dy, at::Tensor& sums) {
  const int64_t tokens = dy.size(0), width = dy.size(1);
  const T* rows = dy.const_data_ptr<T>();
  float* out = sums.mutable_data_ptr<float>();
  ParallelRanges(width, kernels::kLanes, dy.numel(), [&](int64_t begin, int64_t end) {
    std::vector<double> part(static_cast<size_t>(end - begin), 0.0);
    for (int64_t t = 0; t < tokens; ++t) {
      const T* row = rows + t * width + begin;
      for (size_t i = 0; i < part.size(); ++i) part[i] += static_cast<float>(row[i]);
    }
    for (size_t i = 0; i < part.size(); ++i) out[begin + i] = static_cast<float>(part[i]);
  });
}

}  // namespace

at::Tensor LinearDbias(const at::Tensor& dy) {
  // A key's bias hardly moves the softmax: its gradient is what is left of terms thousands of times
  // larger, hence float64.
  at::Tensor sums = at::empty({dy.size(1)}, Options(at::kFloat));
  if (ElementOf(dy) == Element::kFloat32) {
    SumColumns<float>(dy, sums);
  } else {
    SumColumns<at::BFloat16>(dy, sums);
  }
  return sums;
}

at::Tensor EmbedForward(const at::Tensor& table, const at::Tensor& ids) {
  const int64_t vocab = table.size(0), tokens = ids.size(0);
  const int64_t* id = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < tokens; ++i) {
    TORCH_CHECK_INDEX(id[i] >= 0 && id[i] < vocab, "token_ids[", i, "]: expected 0 to ", vocab - 1,
                      ", got ", id[i]);
  }
  at::Tensor out = at::empty({tokens, table.size(1)}, Options(table.scalar_type()));
  const int64_t row = table.size(1) * static_cast<int64_t>(table.element_size());
  const char* from = static_cast<const char*>(table.const_data_ptr());
  char* to = static_cast<char*>(out.mutable_data_ptr());
  for (int64_t i = 0; i < tokens; ++i) std::memcpy(to + i * row, from + id[i] * row, row);
  return out;
}

namespace {

template <typename T>
void SumRowsById(const at::Tensor& dy, const int64_t* id, at::Tensor& sums) {
  const int64_t tokens = dy.size(0), width = dy.size(1);
  const T* rows = dy.const_data_ptr<T>();
  float* out = sums.mutable_data_ptr<float>();
  // Threads take columns: every token id may be frequent.
  ParallelRanges(width, kernels::kLanes, dy.numel(), [&](int64_t begin, int64_t end) {
    for (int64_t token = 0; token < tokens; ++token) {
      float* sum = out + id[token] * width;
      const T* row = rows + token * width;
      for (int64_t j = begin; j < end; ++j) sum[j] += static_cast<float>(row[j]);
    }
  });
}

}  // namespace

at::Tensor EmbedBackward(const at::Tensor& dy, const at::Tensor& ids, int64_t vocab) {
  at::Tensor sums = at::zeros({vocab, dy.size(1)}, Options(at::kFloat));
  const int64_t* id = ids.const_data_ptr<int64_t>();
  if (ElementOf(dy) == Element::kFloat32) {
    SumRowsById<float>(dy, id, sums);
  } else {
    SumRowsById<at::BFloat16>(dy, id, sums);
  }
  return sums;
}

at::Tensor RmsNormForward(const at::Tensor& x, const at::Tensor& weight, double epsilon,
                          bool unit_offset) {
  at::Tensor y = at::empty_like(x);
  kernels::RmsNormArgs args{};
  args.width = x.size(1);
  args.epsilon = static_cast<float>(epsilon);
  args.unit_offset = unit_offset;
  args.type = ElementOf(x);
  args.x = x.const_data_ptr();
  args.weight = weight.const_data_ptr();
  args.y = y.mutable_data_ptr();
  ParallelRanges(x.size(0), 1, x.numel(), [&](int64_t begin, int64_t end) {
    kernels::Kernels().rms_norm(args, begin, end);
  });
  return y;
}

std::pair<at::Tensor, at::Tensor> RmsNormBackward(const at::Tensor& dy, const at::Tensor& x,
                                                  const at::Tensor& weight, double epsilon,
                                                  bool unit_offset, bool need_weight) {
  at::Tensor dx = at::empty_like(x), dweight;
  if (need_weight) dweight = at::empty({x.size(1)}, Options(at::kFloat));
  at::Tensor inverse_rms = at::empty({x.size(0)}, Options(at::kFloat));
  kernels::RmsNormArgs args{};
  args.width = x.size(1);
  args.epsilon = static_cast<float>(epsilon);
  args.unit_offset = unit_offset;
  args.type = ElementOf(x);
  args.x = x.const_data_ptr();
  args.weight = weight.const_data_ptr();
  args.dy = dy.const_data_ptr();
  args.dx = dx.mutable_data_ptr();
  args.dweight = need_weight ? dweight.mutable_data_ptr<float>() : nullptr;
  args.inverse_rms = inverse_rms.mutable_data_ptr<float>();
  ParallelRanges(x.size(0), 1, x.numel(), [&](int64_t begin, int64_t end) {
    kernels::Kernels().rms_norm_dx(args, begin, end);
  });
  if (!need_weight) return {dx, dweight};
  ParallelRanges(x.size(1), kernels::kLanes, x.numel(), [&](int64_t begin, int64_t end) {
    kernels::Kernels().rms_norm_dweight(args, x.size(0), begin, end);
  });
  return {dx, dweight};
}

at::Tensor RotateForward(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& table,
                         bool inverse) {
  at::Tensor y = at::empty_like(x);
  const kernels::RotateArgs args{x.size(1),
                                 x.size(2),
                                 table.size(1),
                                 ElementOf(x),
                                 x.const_data_ptr(),
                                 y.mutable_data_ptr(),
                                 positions.const_data_ptr<int64_t>(),
                                 table.const_data_ptr<float>(),
                                 inverse};
  ParallelRanges(x.size(0), 1, x.numel(),
                 [&](int64_t begin, int64_t end) { kernels::Kernels().rotate(args, begin, end); });
  return y;
}

at::Tensor GluForward(kernels::Activation activation, const at::Tensor& gate,
                      const at::Tensor& up) {
  at::Tensor y = at::empty_like(gate);
  kernels::GluArgs args{};
  args.activation = activation;
  args.type = ElementOf(gate);
  args.gate = gate.const_data_ptr();
  args.up = up.const_data_ptr();
  args.y = y.mutable_data_ptr();
  // An exponential and a division cost about 16 multiply-adds.
  ParallelRanges(gate.numel(), kernels::kLanes, 16 * gate.numel(),
                 [&](int64_t begin, int64_t end) { kernels::Kernels().glu(args, begin, end); });
  return y;
}

std::pair<at::Tensor, at::Tensor> GluBackward(kernels::Activation activation, const at::Tensor& dy,
                                              const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
  kernels::GluArgs args{};
  args.activation = activation;
  args.type = ElementOf(gate);
  args.gate = gate.const_data_ptr();
  args.up = up.const_data_ptr();
  args.dy = dy.const_data_ptr();
  args.dgate = dgate.mutable_data_ptr();
  args.dup = dup.mutable_data_ptr();
  ParallelRanges(gate.numel(), kernels::kLanes, 16 * gate.numel(), [&](int64_t begin, int64_t end) {
    kernels::Kernels().glu_backward(args, begin, end);
  });
  return {dgate, dup};
}

void SoftCapInPlace(at::Tensor& x, double cap, at::Tensor* slope) {
  if (slope != nullptr) *slope = at::empty_like(x);
  const kernels::SoftCapArgs args{static_cast<float>(cap), x.mutable_data_ptr<float>(),
                                  slope == nullptr ? nullptr : slope->mutable_data_ptr<float>()};
  ParallelRanges(x.numel(), kernels::kLanes, 16 * x.numel(), [&](int64_t begin, int64_t end) {
    kernels::Kernels().soft_cap(args, begin, end);
  });
}

}  // namespace rollcall::model
