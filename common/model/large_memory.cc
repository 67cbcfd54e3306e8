#include "common/model/large_memory.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/util/accumulate.h>
#include <sys/mman.h>

namespace rollcall::model {

at::Tensor LargeZeros(at::IntArrayRef shape, const at::TensorOptions& options) {
  if (!options.device().is_cpu()) return at::zeros(shape, options);
  const size_t bytes =
      static_cast<size_t>(c10::multiply_integers(shape)) * options.dtype().itemsize();
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return at::zeros(shape, options);
  madvise(data, bytes, MADV_HUGEPAGE);
  return at::from_blob(
      data, shape, [bytes](void* mapped) { munmap(mapped, bytes); }, options);
}

}  // namespace rollcall::model
