#include "common/text/tokenizer_folder.h"

#include <filesystem>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"

namespace rollcall::text {
namespace {

using Json = nlohmann::json;

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// An empty object where the file is absent.
absl::StatusOr<Json> ReadOptionalObject(const std::string& path) {
  if (!Exists(path)) return Json::object();
  ROLLCALL_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  Json value = Json::parse(bytes, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!value.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a JSON object"));
  }
  return value;
}

// A token is written as its text or as an object with the text in `content`.
std::optional<std::string> TokenText(const Json& token) {
  if (token.is_string()) return token.get<std::string>();
  if (token.is_object() && token.contains("content") && token["content"].is_string()) {
    return token["content"].get<std::string>();
  }
  return std::nullopt;
}

// The first file that has a key decides it, so the caller starts with the one that wins.
void AddSpecialTokens(const Json& config, TokenizerFolder& out) {
  constexpr const char* kNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                    "pad_token", "cls_token", "mask_token"};
  for (const char* name : kNames) {
    if (!config.contains(name) || out.special_tokens.contains(name)) continue;
    if (std::string_view(name) == "bos_token") {
      if (out.names_bos) continue;
      out.names_bos = true;
    }
    if (std::optional<std::string> text = TokenText(config[name])) {
      out.special_tokens.emplace(name, *std::move(text));
    }
  }
  const auto own = config.find("extra_special_tokens");
  if (own == config.end() || !own->is_object()) return;
  for (const auto& [name, token] : own->items()) {
    if (std::optional<std::string> text = TokenText(token)) {
      out.special_tokens.emplace(name, *std::move(text));
    }
  }
}

// One id or a list of ids; absent or null is an empty list.
absl::StatusOr<std::vector<uint32_t>> ReadIds(const Json& config, const std::string& path,
                                              const char* key) {
  std::vector<uint32_t> ids;
  if (!config.contains(key) || config[key].is_null()) return ids;
  const Json& value = config[key];
  for (const Json& item : value.is_array() ? value : Json::array({value})) {
    if (!item.is_number_integer() || item < 0 || item > std::numeric_limits<uint32_t>::max()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": ", key, ": expected a token id or a list of them, got ",
                       value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60)));
    }
    ids.push_back(item.get<uint32_t>());
  }
  return ids;
}

absl::Status ReadModelIds(const std::string& folder, TokenizerFolder& out) {
  for (const char* name : {"generation_config.json", "config.json"}) {
    const std::string path = absl::StrCat(folder, "/", name);
    ROLLCALL_ASSIGN_OR_RETURN(const Json config, ReadOptionalObject(path));
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> bos,
                              ReadIds(config, path, "bos_token_id"));
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> eos,
                              ReadIds(config, path, "eos_token_id"));
    if (!out.model_bos_id && !bos.empty()) out.model_bos_id = bos.front();
    if (out.model_eos_ids.empty()) out.model_eos_ids = eos;
  }
  return absl::OkStatus();
}

// chat_template.jinja is `default`, additional_chat_templates/NAME.jinja is NAME. False where there
// are no such files: then the configuration may hold templates.
absl::StatusOr<bool> ReadTemplateFiles(const std::string& folder, TokenizerFolder& out) {
  namespace fs = std::filesystem;
  std::map<std::string, std::string> files;
  if (const std::string path = folder + "/chat_template.jinja"; Exists(path)) {
    files["default"] = path;
  }
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder + "/additional_chat_templates", error)) {
    if (entry.path().extension() == ".jinja") files[entry.path().stem()] = entry.path();
  }
  for (const auto& [name, path] : files) {
    TokenizerFolder::Source& source = out.chat_templates[name];
    source.place = path;
    ROLLCALL_ASSIGN_OR_RETURN(source.text, ReadFile(path));
  }
  return !files.empty();
}

absl::Status ReadChatTemplates(const std::string& folder, const Json& config,
                               TokenizerFolder& out) {
  ROLLCALL_ASSIGN_OR_RETURN(const bool in_files, ReadTemplateFiles(folder, out));
  if (in_files || !config.contains("chat_template") || config["chat_template"].is_null()) {
    return absl::OkStatus();
  }
  const std::string place = folder + "/tokenizer_config.json: chat_template";
  const Json& value = config["chat_template"];
  if (value.is_string()) {
    out.chat_templates["default"] = {value.get<std::string>(), place};
    return absl::OkStatus();
  }
  for (const Json& item : value) {
    if (!item.is_object() || !item.contains("name") || !item["name"].is_string() ||
        !item.contains("template") || !item["template"].is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": expected a text or a list of {name, template}"));
    }
    const std::string name = item["name"].get<std::string>();
    out.chat_templates[name] = {item["template"].get<std::string>(),
                                absl::StrCat(place, " \"", name, "\"")};
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerFolder> ReadTokenizerFolder(const std::string& folder) {
  TokenizerFolder out;
  const std::string path = folder + "/tokenizer.json";
  if (!Exists(path)) {
    if (Exists(folder + "/tokenizer.model")) {
      return absl::NotFoundError(absl::StrCat(
          folder, ": has only a SentencePiece tokenizer.model, Rollcall reads tokenizer.json. ",
          "Convert it once with transformers: AutoTokenizer.from_pretrained(\"", folder,
          "\").save_pretrained(\"", folder, "\")"));
    }
    return absl::NotFoundError(absl::StrCat(folder, ": has no tokenizer.json"));
  }
  ROLLCALL_ASSIGN_OR_RETURN(out.tokenizer_json, ReadFile(path));
  ROLLCALL_ASSIGN_OR_RETURN(const Json config,
                            ReadOptionalObject(folder + "/tokenizer_config.json"));
  ROLLCALL_ASSIGN_OR_RETURN(const Json map,
                            ReadOptionalObject(folder + "/special_tokens_map.json"));
  AddSpecialTokens(config, out);
  AddSpecialTokens(map, out);
  ROLLCALL_RETURN_IF_ERROR(ReadModelIds(folder, out));
  ROLLCALL_RETURN_IF_ERROR(ReadChatTemplates(folder, config, out));
  return out;
}

}  // namespace rollcall::text
