#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/checkpoint/safetensors.h"

namespace rollcall::checkpoint {
namespace {

using Json = nlohmann::json;

std::string Quoted(std::string_view name) {
  return absl::StrCat("'", absl::CEscape({name.data(), name.size()}), "'");
}

uint64_t ReadLittleEndian64(std::string_view bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

// Builds the records while the parser walks the header, so that memory is bounded by what the
// format can hold: no JSON value is ever built, and the first thing that does not belong there ends
// the walk.
class HeaderHandler : public nlohmann::json_sax<Json> {
 public:
  std::vector<TensorRecord>& tensors() { return tensors_; }
  std::map<std::string, std::string>& metadata() { return metadata_; }
  const std::string& error() const { return error_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool value) override { return Unexpected(value ? "true" : "false"); }
  bool number_float(double, const std::string& text) override { return Unexpected(text); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool number_integer(int64_t value) override { return Unexpected(absl::StrCat(value)); }

  bool number_unsigned(uint64_t value) override {
    if (place_ == Place::kShape) {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Fail(absl::StrCat("dimension ", value, " is too large"));
      }
      tensor_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::kOffsets) {
      if (offsets_seen_ == 2) return Fail("data_offsets has more than two numbers");
      (offsets_seen_++ == 0 ? tensor_.begin : tensor_.end) = value;
      return true;
    }
    return Unexpected(absl::StrCat(value));
  }

  bool string(std::string& value) override {
    if (place_ == Place::kMetadata) {
      metadata_[metadata_key_] = value;
      return true;
    }
    if (place_ != Place::kTensor || field_ != "dtype")
      return Unexpected(absl::StrCat("\"", value, "\""));
    const std::optional<wire::DType> dtype = wire::DTypeFromSafetensorsName(value);
    if (!dtype) return Fail(absl::StrCat("unknown dtype ", Quoted(value)));
    tensor_.dtype = *dtype;
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::kOutside && !top_seen_) {
      top_seen_ = true;
      place_ = Place::kTop;
      return true;
    }
    if (place_ != Place::kTop) return Unexpected("an object");
    place_ = name_ == "__metadata__" ? Place::kMetadata : Place::kTensor;
    tensor_ = {};
    tensor_.name = name_;
    fields_seen_.clear();
    offsets_seen_ = 0;
    return true;
  }

  bool key(std::string& value) override {
    if (place_ == Place::kTop) {
      name_ = value;
      if (!names_.insert(value).second) return Fail("the name occurs twice");
      return true;
    }
    if (place_ == Place::kMetadata) {
      metadata_key_ = value;
      return metadata_.count(value) == 0 ||
             Fail(absl::StrCat("key ", Quoted(value), " occurs twice"));
    }
    field_ = value;
    if (value != "dtype" && value != "shape" && value != "data_offsets") {
      return Fail(absl::StrCat("unknown field ", Quoted(value)));
    }
    return fields_seen_.insert(value).second || Fail(absl::StrCat(value, " occurs twice"));
  }

  bool end_object() override {
    if (place_ == Place::kTop) {
      place_ = Place::kOutside;
      return true;
    }
    if (place_ == Place::kTensor) {
      for (const char* field : {"dtype", "shape", "data_offsets"}) {
        if (fields_seen_.count(field) == 0) return Fail(absl::StrCat(field, " is missing"));
      }
      tensors_.push_back(std::move(tensor_));
    }
    place_ = Place::kTop;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kTensor || field_ == "dtype") return Unexpected("an array");
    place_ = field_ == "shape" ? Place::kShape : Place::kOffsets;
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && offsets_seen_ != 2)
      return Fail("data_offsets must have two numbers");
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const Json::exception&) override {
    if (error_.empty()) error_ = absl::StrCat("header is not JSON (at byte ", position, " of it)");
    return false;
  }

 private:
  enum class Place { kOutside, kTop, kMetadata, kTensor, kShape, kOffsets };

  bool Fail(std::string_view what) {
    error_ = absl::StrCat("tensor ", Quoted(name_), ": ", std::string(what));
    return false;
  }
  bool Unexpected(std::string_view what) {
    if (place_ == Place::kOutside) {
      error_ = absl::StrCat("header must be one JSON object, found ", std::string(what));
      return false;
    }
    return Fail(absl::StrCat("unexpected ", absl::CEscape({what.data(), what.size()}),
                             place_ == Place::kTensor ? absl::StrCat(" as ", field_) : ""));
  }

  Place place_ = Place::kOutside;
  bool top_seen_ = false;
  std::string name_;          // the key at the top level
  std::string field_;         // the key inside a tensor
  std::string metadata_key_;  // the key inside __metadata__
  std::set<std::string> fields_seen_;
  int offsets_seen_ = 0;
  TensorRecord tensor_;
  std::set<std::string> names_;
  std::vector<TensorRecord> tensors_;
  std::map<std::string, std::string> metadata_;
  std::string error_;
};

absl::Status CheckRange(const TensorRecord& tensor, uint64_t expected_begin, uint64_t data_size) {
  const auto fail = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(tensor.name), ": ", what));
  };
  const std::string range = absl::StrCat("data_offsets [", tensor.begin, ", ", tensor.end, ")");
  if (tensor.end < tensor.begin) return fail(absl::StrCat(range, " end before they begin"));
  if (tensor.end > data_size) {
    return fail(absl::StrCat(range, " reach beyond the file's ", data_size, " data bytes"));
  }
  if (tensor.begin < expected_begin) return fail(absl::StrCat(range, " overlap the tensor before"));
  if (tensor.begin > expected_begin) {
    return fail(absl::StrCat(range, " leave a hole after byte ", expected_begin));
  }
  const std::string shape = absl::StrCat("shape [", absl::StrJoin(tensor.shape, ", "), "]");
  const absl::StatusOr<int64_t> bytes = wire::ByteSize(tensor.dtype, tensor.shape);
  if (!bytes.ok()) return fail(std::string(bytes.status().message()));
  if (static_cast<uint64_t>(*bytes) != tensor.end - tensor.begin) {
    return fail(absl::StrCat(shape, " takes ", *bytes, " bytes, but ", range, " hold ",
                             tensor.end - tensor.begin));
  }
  return absl::OkStatus();
}

absl::Status CheckRanges(std::vector<TensorRecord>& tensors, uint64_t data_size) {
  // By end as well: an empty tensor comes before the one that begins at the same byte.
  std::sort(tensors.begin(), tensors.end(), [](const TensorRecord& a, const TensorRecord& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t position = 0;
  for (const TensorRecord& tensor : tensors) {
    ROLLCALL_RETURN_IF_ERROR(CheckRange(tensor, position, data_size));
    position = tensor.end;
  }
  if (position != data_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("the header describes ", position, " data bytes, the file holds ", data_size));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view start,
                                                         uint64_t file_size) {
  if (file_size < 8 || start.size() < 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("a safetensors file has at least 8 bytes, this one ", file_size));
  }
  const uint64_t length = ReadLittleEndian64(start);
  if (length > kMaxSafetensorsHeader) {
    return absl::InvalidArgumentError(absl::StrCat("header length ", length,
                                                   " is above the limit of ", kMaxSafetensorsHeader,
                                                   " (not a safetensors file?)"));
  }
  if (length > file_size - 8 || length > start.size() - 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("header length ", length, " reaches beyond the file's ", file_size, " bytes"));
  }
  const std::string_view text = start.substr(8, length);
  if (text.empty() || text.front() != '{') {
    return absl::InvalidArgumentError("header does not begin with '{' (not a safetensors file?)");
  }
  HeaderHandler handler;
  if (!Json::sax_parse(text.begin(), text.end(), &handler)) {
    return absl::InvalidArgumentError(handler.error());
  }
  SafetensorsHeader header;
  header.tensors = std::move(handler.tensors());
  header.metadata = std::move(handler.metadata());
  header.data_offset = 8 + length;
  ROLLCALL_RETURN_IF_ERROR(CheckRanges(header.tensors, file_size - header.data_offset));
  return header;
}

}  // namespace rollcall::checkpoint
