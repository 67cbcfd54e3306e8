#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/tensor/torch_call.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "services/cli/verify/suite.h"

// Folder format: shared/data/golden/README.md, section "text".
namespace rollcall::verify {
namespace {

namespace fs = std::filesystem;
// Templates print what they are given in the order in which it is written.
using Json = nlohmann::ordered_json;

absl::StatusOr<Json> ParseJson(const std::string& name, std::string_view text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(name, ": not JSON"));
  return json;
}

absl::StatusOr<Json> ReadJson(const fs::path& path) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path.string()));
  return ParseJson(path.string(), text);
}

// The golden files count characters, we bytes.
size_t CharactersBefore(std::string_view text, size_t bytes) {
  const std::string_view before = text.substr(0, bytes);
  return std::count_if(before.begin(), before.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

std::string Dump(const Json& json) {
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  constexpr size_t kLongest = 200;  // of a value in a note: a line or two of a terminal
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "…";
  return text;
}

// Counts, by quantity, how many cases were compared and how many differ, and keeps the first
// difference of each.
class Tally {
 public:
  void Add(const std::string& quantity, const std::string& which, const Json& actual,
           const Json& expected) {
    Counts& counts = quantities_[quantity];
    ++counts.compared;
    if (actual == expected) return;
    if (counts.different++ == 0) {
      counts.first =
          absl::StrCat("; first ", which, ": expected ", Dump(expected), ", got ", Dump(actual));
    }
  }

  void ReportTo(Report& report) const {
    if (quantities_.empty()) report.Fail("case", "nothing to compare");
    for (const auto& [quantity, counts] : quantities_) {
      report.Compare(
          quantity, static_cast<double>(counts.different), 0,
          absl::StrCat(counts.different, " of ", counts.compared, " differ", counts.first));
    }
  }

 private:
  struct Counts {
    int64_t compared = 0;
    int64_t different = 0;
    std::string first;
  };
  std::map<std::string, Counts> quantities_;
};

struct Chats {
  Json conversations;
  std::string tools;
  absl::Time now;
};

absl::StatusOr<Chats> ReadChats(const fs::path& path) {
  ROLLCALL_ASSIGN_OR_RETURN(const Json json, ReadJson(path));
  Chats chats{.conversations = json.at("conversations"), .tools = json.at("tools").dump()};
  // The recorded clock has no zone, and templates print local time.
  std::string error;
  if (!absl::ParseTime("%Y-%m-%dT%H:%M:%S", json.at("now").get<std::string>(),
                       absl::LocalTimeZone(), &chats.now, &error)) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": now: ", error));
  }
  return chats;
}

void CompareRender(const text::ChatTemplate& chat_template, const Chats& chats, const Json& render,
                   Tally& tally) {
  Json shown = render;
  for (const char* result : {"expected", "error", "generation_spans"}) shown.erase(result);
  const std::string which = shown.dump();
  text::ChatTemplateOptions options;
  options.now = chats.now;
  options.add_generation_prompt = render.value("add_generation_prompt", false);
  options.continue_final_message = render.value("continue_final_message", false);
  if (render.value("tools", false)) options.tools_json = chats.tools;
  if (render.contains("kwargs")) options.extra_variables_json = render["kwargs"].dump();
  const auto chat = chat_template.Render(
      chats.conversations.at(render.at("conversation").get<std::string>()).dump(), options);
  if (render.contains("error")) {
    tally.Add("errors", which, chat.ok() ? Json(chat->text) : Json("an error"), "an error");
    return;
  }
  const Json failure = chat.ok() ? Json() : Json(chat.status().ToString());
  tally.Add("renders", which, chat.ok() ? Json(chat->text) : failure, render.at("expected"));
  if (!render.contains("generation_spans")) return;
  Json spans = Json::array();
  if (chat.ok()) {
    for (const text::RenderedChat::Span& span : chat->generation_spans) {
      spans.push_back(
          {CharactersBefore(chat->text, span.begin), CharactersBefore(chat->text, span.end)});
    }
  }
  tally.Add("generation spans", which, chat.ok() ? spans : failure, render["generation_spans"]);
}

absl::Status CompareTemplate(const fs::path& source, const Chats& chats, Report& report) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string jinja, ReadFile(source.string()));
  ROLLCALL_ASSIGN_OR_RETURN(const Json golden,
                            ReadJson(fs::path(source).replace_extension(".json")));
  ROLLCALL_ASSIGN_OR_RETURN(
      const std::shared_ptr<const text::ChatTemplate> chat_template,
      text::ChatTemplate::Compile(
          jinja, golden.at("special_tokens").get<std::map<std::string, std::string>>()));
  Tally tally;
  for (const Json& render : golden.at("renders")) {
    CompareRender(*chat_template, chats, render, tally);
  }
  tally.ReportTo(report);
  return absl::OkStatus();
}

template <typename T>
Json ResultOf(const absl::StatusOr<T>& result) {
  return result.ok() ? Json(*result) : Json(result.status().ToString());
}

// What each step of a stream printed; null where it printed nothing yet.
Json StreamOf(const text::Tokenizer& tokenizer, const std::vector<uint32_t>& ids,
              bool skip_special) {
  text::StreamDecoder stream = tokenizer.NewStream(skip_special);
  Json steps = Json::array();
  for (const uint32_t id : ids) {
    const absl::StatusOr<std::string> text = stream.Step(id);
    steps.push_back(text.ok() && text->empty() ? Json() : ResultOf(text));
  }
  return steps;
}

void CompareString(const text::Tokenizer& tokenizer, const std::string& text, const Json& golden,
                   const std::string& which, Tally& tally) {
  tally.Add("ids", which, ResultOf(tokenizer.Encode(text, false)), golden.at("ids"));
  tally.Add("ids with special", which, ResultOf(tokenizer.Encode(text, true)),
            golden.at("ids_with_special"));
  if (golden.contains("offsets") && !golden["offsets"].is_null()) {
    const auto encoding = tokenizer.EncodeWithOffsets(text, false);
    Json offsets = encoding.ok() ? Json::array() : Json(encoding.status().ToString());
    if (encoding.ok()) {
      for (const text::Encoding::Offset& offset : encoding->offsets) {
        offsets.push_back(
            {CharactersBefore(text, offset.begin), CharactersBefore(text, offset.end)});
      }
    }
    tally.Add("offsets", which, offsets, golden["offsets"]);
  }
  const auto ids = golden["ids"].get<std::vector<uint32_t>>();
  const auto with_special = golden["ids_with_special"].get<std::vector<uint32_t>>();
  tally.Add("decoded", which, ResultOf(tokenizer.Decode(ids, false)), golden.at("decoded"));
  tally.Add("decoded, special skipped", which, ResultOf(tokenizer.Decode(with_special, true)),
            golden.at("decoded_skip_special"));
  for (const bool skip_special : {false, true}) {
    const char* const field = skip_special ? "stream_skip_special" : "stream";
    if (!golden.contains(field) || golden[field].is_null()) continue;  // long texts have none
    tally.Add(skip_special ? "stream, special skipped" : "stream", which,
              StreamOf(tokenizer, with_special, skip_special), golden[field]);
  }
}

absl::Status CompareTokenizer(const fs::path& folder, const Json& strings, Report& report) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::shared_ptr<const text::Tokenizer> tokenizer,
                            text::Tokenizer::Load(folder.string()));
  const std::string path = (folder / "expected.jsonl").string();
  ROLLCALL_ASSIGN_OR_RETURN(const std::string lines, ReadFile(path));
  Tally tally;
  for (const auto line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    ROLLCALL_ASSIGN_OR_RETURN(const Json golden, ParseJson(path, {line.data(), line.size()}));
    const auto index = golden.at("i").get<size_t>();
    CompareString(*tokenizer, strings.at(index).get<std::string>(), golden,
                  absl::StrCat("string ", index), tally);
  }
  tally.ReportTo(report);
  return absl::OkStatus();
}

std::vector<fs::path> Sorted(const fs::path& folder) {
  std::vector<fs::path> entries;
  if (!fs::is_directory(folder)) return entries;
  for (const auto& entry : fs::directory_iterator(folder)) entries.push_back(entry.path());
  std::sort(entries.begin(), entries.end());
  return entries;
}

class TextSuite : public Suite {
 public:
  std::string_view name() const override { return "text"; }

  absl::Status Run(const SuiteInput& input, Report& report) const override {
    const fs::path folder = fs::path(input.root) / std::string(name());
    const size_t before = report.findings().size();
    ROLLCALL_RETURN_IF_ERROR(RunTemplates(folder / "templates", report));
    ROLLCALL_RETURN_IF_ERROR(RunTokenizers(folder / "tokenizers", report));
    if (report.findings().size() == before) {
      return absl::NotFoundError(
          absl::StrCat(folder.string(), ": neither templates/ nor tokenizers/ holds a case"));
    }
    return absl::OkStatus();
  }

 private:
  template <typename Compare>
  void RunCase(const std::string& case_name, Report& report, const Compare& compare) const {
    report.Begin(name(), case_name);
    // JSON of another shape than expected throws.
    const absl::Status status = tensor::TorchCall(compare);
    if (!status.ok()) report.Fail("case", status.ToString());
  }

  absl::Status RunTemplates(const fs::path& folder, Report& report) const {
    if (!fs::is_directory(folder)) return absl::OkStatus();
    ROLLCALL_ASSIGN_OR_RETURN(const Chats chats, ReadChats(folder / "conversations.json"));
    for (const fs::path& source : Sorted(folder)) {
      if (source.extension() != ".jinja") continue;
      RunCase(source.stem().string(), report,
              [&] { return CompareTemplate(source, chats, report); });
    }
    return absl::OkStatus();
  }

  absl::Status RunTokenizers(const fs::path& folder, Report& report) const {
    if (!fs::is_directory(folder)) return absl::OkStatus();
    ROLLCALL_ASSIGN_OR_RETURN(const Json strings, ReadJson(folder / "strings.json"));
    for (const fs::path& tokenizer : Sorted(folder)) {
      if (!fs::is_directory(tokenizer)) continue;
      RunCase(tokenizer.filename().string(), report,
              [&] { return CompareTokenizer(tokenizer, strings, report); });
    }
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<Suite> MakeTextSuite() { return std::make_unique<TextSuite>(); }

}  // namespace rollcall::verify
