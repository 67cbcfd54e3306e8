#include "common/wire/sha256.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/escaping.h"

namespace rollcall::wire {
namespace {

// Fails only when OpenSSL lacks SHA-256 or memory: nothing could go on with a wrong hash.
void Require(int ok) {
  if (ok != 1) std::abort();
}

}  // namespace

void Sha256::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  Require(context_ != nullptr);
  Require(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr));
}

void Sha256::Update(const void* bytes, size_t size) {
  Require(EVP_DigestUpdate(context_.get(), bytes, size));
}

Sha256Digest Sha256::Finish() {
  Sha256Digest digest;
  Require(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr));
  Require(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr));
  return digest;
}

Sha256Digest Sha256Of(std::string_view bytes) {
  Sha256 sha256;
  sha256.Update(bytes);
  return sha256.Finish();
}

std::string ToHex(const Sha256Digest& digest) { return absl::BytesToHexString(ToBytes(digest)); }

std::string ToBytes(const Sha256Digest& digest) { return {digest.begin(), digest.end()}; }

std::optional<Sha256Digest> DigestFromBytes(std::string_view bytes) {
  Sha256Digest digest;
  if (bytes.size() != digest.size()) return std::nullopt;
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  return digest;
}

}  // namespace rollcall::wire
