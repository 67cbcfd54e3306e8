#pragma once

#include <cstdint>

namespace rollcall::tensor {

// Whose thread is about to own a model.
enum class ModelThread {
  kEngine,  // does nothing else, and starts no threads but compute threads
  kMain,    // also starts other threads, which would inherit its CPU: it is not bound itself
};

// Gives the calling thread its compute threads: `wanted`, 0: all that may run at once, and never
// more than those, by affinity mask and CPU quota (base/machine_limits.h). Where they take the whole
// mask each is bound to a core of its own, if PinningWanted(). Says so in the log. Called once, by the thread that will
// own the model, before it computes. Returns their number.
uint32_t StartComputeThreads(uint32_t wanted, ModelThread thread);

}  // namespace rollcall::tensor
