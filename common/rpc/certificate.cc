#include "common/rpc/certificate.h"

#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/openssl_pointers.h"

namespace rollcall::rpc {
namespace {

BioPtr Reader(std::string_view text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// A key that asks for a password cannot be used by a service: nobody is there to type one.
int NoPassword(char*, int, int, void*) { return -1; }

absl::StatusOr<CertificatePtr> ReadCertificate(std::string_view pem) {
  CertificatePtr certificate(PEM_read_bio_X509(Reader(pem).get(), nullptr, NoPassword, nullptr));
  ERR_clear_error();
  if (certificate == nullptr) return absl::InvalidArgumentError("holds no certificate in PEM");
  return certificate;
}

absl::StatusOr<absl::Time> TimeOf(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) {
    return absl::InvalidArgumentError("certificate with an unreadable date");
  }
  return absl::FromTM(parts, absl::UTCTimeZone());
}

void ReadNames(const X509* certificate, CertificateInfo* info) {
  const GeneralNamesPtr names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    int type = 0;
    const void* value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type);
    if (type != GEN_URI && type != GEN_DNS) continue;
    const auto* text = static_cast<const ASN1_IA5STRING*>(value);
    std::string name(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                     static_cast<size_t>(ASN1_STRING_length(text)));
    (type == GEN_URI ? info->uris : info->dns_names).push_back(std::move(name));
  }
}

}  // namespace

absl::StatusOr<CertificateInfo> ParseCertificate(std::string_view pem) {
  ROLLCALL_ASSIGN_OR_RETURN(const CertificatePtr certificate, ReadCertificate(pem));
  CertificateInfo info;
  char subject[256] = "";
  X509_NAME_oneline(X509_get_subject_name(certificate.get()), subject, sizeof(subject));
  info.subject = subject;
  ROLLCALL_ASSIGN_OR_RETURN(info.not_before, TimeOf(X509_get0_notBefore(certificate.get())));
  ROLLCALL_ASSIGN_OR_RETURN(info.not_after, TimeOf(X509_get0_notAfter(certificate.get())));
  ReadNames(certificate.get(), &info);
  return info;
}

absl::Status CheckKeyPair(std::string_view certificate, std::string_view private_key) {
  ROLLCALL_ASSIGN_OR_RETURN(const CertificatePtr parsed, ReadCertificate(certificate));
  const KeyPtr key(
      PEM_read_bio_PrivateKey(Reader(private_key).get(), nullptr, NoPassword, nullptr));
  const bool matches = key != nullptr && X509_check_private_key(parsed.get(), key.get()) == 1;
  ERR_clear_error();
  if (key == nullptr) return absl::InvalidArgumentError("no private key in PEM without a password");
  if (!matches) return absl::InvalidArgumentError("the key is not the certificate's");
  return absl::OkStatus();
}

}  // namespace rollcall::rpc
