#include "services/learner/batching/batch_bytes.h"

#include <cstring>
#include <map>
#include <optional>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"

namespace rollcall::learner {
namespace {

template <typename T>
concept Plain = std::is_arithmetic_v<T>;

class Writer {
 public:
  template <Plain T>
  void Put(const T& value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void Put(const std::string& text) {
    Put(uint64_t{text.size()});
    bytes_ += text;
  }
  template <Plain T>
  void Put(const std::vector<T>& values) {
    Put(uint64_t{values.size()});
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
  template <typename T>
  void Put(const std::optional<T>& value) {
    Put(value.has_value());
    if (value.has_value()) Put(*value);
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// After a fault everything reads as empty.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  template <Plain T>
  void Get(T& value) {
    if (!Has(sizeof(T))) return;
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_.remove_prefix(sizeof(T));
  }
  void Get(std::string& text) {
    const uint64_t size = Count(1);
    text = std::string(rest_.substr(0, size));
    rest_.remove_prefix(size);
  }
  template <Plain T>
  void Get(std::vector<T>& values) {
    const uint64_t count = Count(sizeof(T));
    values.resize(count);
    if (count > 0) std::memcpy(values.data(), rest_.data(), count * sizeof(T));
    rest_.remove_prefix(count * sizeof(T));
  }
  template <typename T>
  void Get(std::optional<T>& value) {
    bool present = false;
    Get(present);
    if (present) Get(value.emplace());
  }
  // The number of elements that follow, each of at least `size` bytes.
  uint64_t Count(size_t size) {
    uint64_t count = 0;
    Get(count);
    if (count <= rest_.size() / size) return count;
    whole_ = false;
    rest_ = {};
    return 0;
  }
  bool done() const { return whole_ && rest_.empty(); }

 private:
  bool Has(size_t size) {
    whole_ = whole_ && rest_.size() >= size;
    if (!whole_) rest_ = {};
    return whole_;
  }

  std::string_view rest_;
  bool whole_ = true;
};

// Both directions, in one order. A field that TrainSequence gains and this does not stops the build.
template <typename Sequence, typename Visit>
void VisitFields(Sequence& sequence, const Visit& visit) {
  auto& [group_id, sample_index, token_ids, loss_mask, behavior_logprobs, reference_logprobs,
         reward, greedy_reward, greedy_tokens, greedy_truncated, on_policy, margin, preference,
         likelihood_only, truncated] = sequence;
  visit(group_id);
  visit(sample_index);
  visit(token_ids);
  visit(loss_mask);
  visit(behavior_logprobs);
  visit(reference_logprobs);
  visit(reward);
  visit(greedy_reward);
  visit(greedy_tokens);
  visit(greedy_truncated);
  visit(on_policy);
  visit(margin);
  visit(preference);
  visit(likelihood_only);
  visit(truncated);
}

}  // namespace

std::string EncodeBatch(const TrainBatch& batch) {
  Writer writer;
  const auto& [sequences, group_ids, metrics] = batch;
  writer.Put(uint64_t{sequences.size()});
  for (const TrainSequence& sequence : sequences) {
    VisitFields(sequence, [&](const auto& field) { writer.Put(field); });
  }
  writer.Put(group_ids);
  writer.Put(uint64_t{metrics.size()});
  for (const auto& [name, value] : metrics) {
    writer.Put(name);
    writer.Put(value);
  }
  return writer.Take();
}

absl::StatusOr<TrainBatch> DecodeBatch(std::string_view bytes) {
  Reader reader(bytes);
  TrainBatch batch;
  const uint64_t sequences = reader.Count(1);
  for (uint64_t i = 0; i < sequences; ++i) {
    VisitFields(batch.sequences.emplace_back(), [&](auto& field) { reader.Get(field); });
  }
  reader.Get(batch.group_ids);
  const uint64_t metrics = reader.Count(1);
  for (uint64_t i = 0; i < metrics; ++i) {
    std::string name;
    reader.Get(name);
    reader.Get(batch.metrics[name]);
  }
  if (!reader.done()) return absl::DataLossError("a batch from rank 0 is not whole");
  return batch;
}

}  // namespace rollcall::learner
