#pragma once

#include <string_view>

namespace rollcall::learner {

// Whether `text` is UTF-8 (Unicode 15, table 3-7: no surrogates, no overlong forms) without a NUL
// byte. Passes over ASCII eight bytes at a time.
bool IsPlainUtf8(std::string_view text);

}  // namespace rollcall::learner
