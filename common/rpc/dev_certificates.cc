#include "common/rpc/dev_certificates.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <memory>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/rpc/openssl_pointers.h"

namespace rollcall::rpc {
namespace {

constexpr long kX509Version3 = 2;  // counted from 0

absl::Status Failed(std::string_view what) {
  return absl::InternalError(absl::StrCat("OpenSSL cannot ", std::string(what)));
}

std::string TextOf(BIO* bio) {
  const char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<size_t>(size));
}

absl::Status WriteKey(const EVP_PKEY* key, const std::string& path) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return Failed("write a key");
  }
  // Nobody else may read it from the moment the file has the name.
  const mode_t mask = ::umask(0077);
  const absl::Status written = WriteFileAtomically(path, TextOf(bio.get()));
  ::umask(mask);
  ROLLCALL_RETURN_IF_ERROR(written);
  if (::chmod(path.c_str(), 0600) != 0) return absl::ErrnoToStatus(errno, "cannot protect " + path);
  return absl::OkStatus();
}

absl::Status WriteCertificate(X509* certificate, const std::string& path) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509(bio.get(), certificate) != 1) return Failed("write a certificate");
  return WriteFileAtomically(path, TextOf(bio.get()));
}

absl::Status AddExtension(X509* certificate, X509* issuer, int id, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, id, value.c_str()));
  if (extension == nullptr || X509_add_ext(certificate, extension.get(), -1) != 1) {
    return absl::InvalidArgumentError("not to be written in a certificate: " + value);
  }
  return absl::OkStatus();
}

absl::Status SetSerial(X509* certificate) {
  uint64_t serial = 0;
  if (RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof(serial)) != 1) {
    return Failed("draw a serial number");
  }
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), serial >> 1);
  return absl::OkStatus();
}

void SetTime(ASN1_TIME* field, absl::Time time) {
  ASN1_TIME_set(field, static_cast<std::time_t>(absl::ToUnixSeconds(time)));
}

// Unsigned, with name, times and key.
absl::StatusOr<CertificatePtr> Draft(const std::string& name, absl::Time not_before,
                                     absl::Time not_after, EVP_PKEY* key) {
  CertificatePtr certificate(X509_new());
  X509_set_version(certificate.get(), kX509Version3);
  ROLLCALL_RETURN_IF_ERROR(SetSerial(certificate.get()));
  SetTime(X509_getm_notBefore(certificate.get()), not_before);
  SetTime(X509_getm_notAfter(certificate.get()), not_after);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  if (X509_set_pubkey(certificate.get(), key) != 1) return Failed("set a public key");
  return certificate;
}

std::string NamesText(const DevCertificate& certificate) {
  std::vector<std::string> names;
  for (const std::string& uri : certificate.uris) names.push_back("URI:" + uri);
  for (const std::string& host : certificate.hosts) {
    unsigned char address[16];
    const bool numeric = ::inet_pton(AF_INET, host.c_str(), address) == 1 ||
                         ::inet_pton(AF_INET6, host.c_str(), address) == 1;
    names.push_back((numeric ? "IP:" : "DNS:") + host);
  }
  return absl::StrJoin(names, ",");
}

}  // namespace

absl::Status MakeDevAuthority(const std::string& folder, absl::Time not_before,
                              absl::Time not_after) {
  std::error_code error;
  if (std::filesystem::exists(folder + "/ca.pem", error) &&
      std::filesystem::exists(folder + "/ca.key", error)) {
    return absl::OkStatus();
  }
  ROLLCALL_RETURN_IF_ERROR(MakeDirectories(folder));
  const KeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return Failed("make a key");
  ROLLCALL_ASSIGN_OR_RETURN(const CertificatePtr ca, Draft("Rollcall development authority",
                                                           not_before, not_after, key.get()));
  X509_set_issuer_name(ca.get(), X509_get_subject_name(ca.get()));
  ROLLCALL_RETURN_IF_ERROR(
      AddExtension(ca.get(), ca.get(), NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
  ROLLCALL_RETURN_IF_ERROR(
      AddExtension(ca.get(), ca.get(), NID_key_usage, "critical,keyCertSign,cRLSign"));
  ROLLCALL_RETURN_IF_ERROR(AddExtension(ca.get(), ca.get(), NID_subject_key_identifier, "hash"));
  if (X509_sign(ca.get(), key.get(), EVP_sha256()) == 0) return Failed("sign a certificate");
  ROLLCALL_RETURN_IF_ERROR(WriteKey(key.get(), folder + "/ca.key"));
  return WriteCertificate(ca.get(), folder + "/ca.pem");
}

absl::Status IssueDevCertificate(const std::string& folder, const DevCertificate& certificate) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string ca_pem, ReadFile(folder + "/ca.pem"));
  ROLLCALL_ASSIGN_OR_RETURN(const std::string ca_key_pem, ReadFile(folder + "/ca.key"));
  const BioPtr ca_bio(BIO_new_mem_buf(ca_pem.data(), static_cast<int>(ca_pem.size())));
  const BioPtr key_bio(BIO_new_mem_buf(ca_key_pem.data(), static_cast<int>(ca_key_pem.size())));
  const CertificatePtr ca(PEM_read_bio_X509(ca_bio.get(), nullptr, nullptr, nullptr));
  const KeyPtr ca_key(PEM_read_bio_PrivateKey(key_bio.get(), nullptr, nullptr, nullptr));
  if (ca == nullptr || ca_key == nullptr) {
    return absl::InvalidArgumentError(folder + ": ca.pem or ca.key is not in PEM");
  }
  const KeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return Failed("make a key");
  ROLLCALL_ASSIGN_OR_RETURN(
      const CertificatePtr leaf,
      Draft(certificate.name, certificate.not_before, certificate.not_after, key.get()));
  X509_set_issuer_name(leaf.get(), X509_get_subject_name(ca.get()));
  const std::pair<int, std::string> extensions[] = {{NID_basic_constraints, "critical,CA:FALSE"},
                                                    {NID_key_usage, "critical,digitalSignature"},
                                                    {NID_ext_key_usage, "serverAuth,clientAuth"},
                                                    {NID_authority_key_identifier, "keyid"},
                                                    {NID_subject_alt_name, NamesText(certificate)}};
  for (const auto& [id, value] : extensions) {
    if (value.empty()) continue;
    ROLLCALL_RETURN_IF_ERROR(AddExtension(leaf.get(), ca.get(), id, value));
  }
  if (X509_sign(leaf.get(), ca_key.get(), EVP_sha256()) == 0) return Failed("sign a certificate");
  const std::string path = absl::StrCat(folder, "/", certificate.name);
  ROLLCALL_RETURN_IF_ERROR(WriteKey(key.get(), path + ".key"));
  return WriteCertificate(leaf.get(), path + ".pem");
}

}  // namespace rollcall::rpc
