#pragma once

#include <string>
#include <vector>

namespace rollcall::exactness {

// A small model of one architecture, with a context of 2,304 tokens.
struct Shape {
  std::string name;
  std::string config_json;
};

// Llama, Qwen2, Qwen3, Gemma 2 (whose windows are shorter than the prompts) and Qwen3-MoE.
std::vector<Shape> Shapes();

}  // namespace rollcall::exactness
