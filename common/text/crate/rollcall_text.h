#pragma once

// The C interface of the Rust crate in this folder. Only common/text includes it; everyone else
// uses Tokenizer, StreamDecoder and ChatTemplate.
//
// Functions that return an int32_t: 0 done; 1 refused (`error` says why); 2 the crate panicked
// (`error` says where). Outputs are written only on 0. Every RollcallBytes written is freed once
// with rollcall_bytes_free. Tokenizers and templates may be used by many threads at once, a stream
// by one at a time. Texts are UTF-8.

#include <cstddef>
#include <cstdint>

extern "C" {

struct RollcallTokenizer;
struct RollcallStream;
struct RollcallTemplate;
struct RollcallTable;

struct RollcallBytes {
  uint8_t* data;
  size_t size;
};

void rollcall_bytes_free(RollcallBytes* bytes);

// `json`: the bytes of a tokenizer.json.
int32_t rollcall_tokenizer_load(const uint8_t* json, size_t size, RollcallTokenizer** out,
                                RollcallBytes* error);
void rollcall_tokenizer_free(RollcallTokenizer* tokenizer);

// `out_ids`: uint32_t each. `out_offsets`: null, or uint64_t pairs [begin, end) in bytes of `text`.
int32_t rollcall_tokenizer_encode(const RollcallTokenizer* tokenizer, const uint8_t* text,
                                  size_t size, bool add_special_tokens, RollcallBytes* out_ids,
                                  RollcallBytes* out_offsets, RollcallBytes* error);
int32_t rollcall_tokenizer_decode(const RollcallTokenizer* tokenizer, const uint32_t* token_ids,
                                  size_t count, bool skip_special_tokens, RollcallBytes* out,
                                  RollcallBytes* error);
uint32_t rollcall_tokenizer_vocab_size(const RollcallTokenizer* tokenizer);
// False where there is no such token or id.
bool rollcall_tokenizer_token_to_id(const RollcallTokenizer* tokenizer, const uint8_t* token,
                                    size_t size, uint32_t* out);
bool rollcall_tokenizer_id_to_token(const RollcallTokenizer* tokenizer, uint32_t id,
                                    RollcallBytes* out);

// The stream outlives its tokenizer's handle.
RollcallStream* rollcall_stream_new(const RollcallTokenizer* tokenizer, bool skip_special_tokens);
void rollcall_stream_free(RollcallStream* stream);
int32_t rollcall_stream_step(RollcallStream* stream, uint32_t id, RollcallBytes* out,
                             RollcallBytes* error);
int32_t rollcall_stream_flush(RollcallStream* stream, RollcallBytes* out, RollcallBytes* error);

int32_t rollcall_template_compile(const uint8_t* source, size_t size, RollcallTemplate** out,
                                  RollcallBytes* error);
void rollcall_template_free(RollcallTemplate* compiled);
// `variables`: a JSON object. `out_spans`: uint64_t pairs [begin, end) in bytes of the text, one
// for each {% generation %} block.
int32_t rollcall_template_render(const RollcallTemplate* compiled, const uint8_t* variables,
                                 size_t size, int64_t now_unix_seconds, RollcallBytes* out_text,
                                 RollcallBytes* out_spans, RollcallBytes* error);

// Opens a Parquet file. `out_groups`: uint64_t pairs, of each row group its rows and its bytes without
// compression.
int32_t rollcall_table_open(const uint8_t* path, size_t size, RollcallTable** out,
                            RollcallBytes* out_groups, RollcallBytes* error);
void rollcall_table_free(RollcallTable* table);
// `count` rows of a row group from `first` on, each a JSON object and "\n". Rows that follow those
// read last cost what they are; others cost reading the group up to them. One thread at a time.
int32_t rollcall_table_read(RollcallTable* table, uint64_t group, uint64_t first, uint64_t count,
                            RollcallBytes* out_rows, RollcallBytes* error);
// Writes `rows`, a JSON object a line, as a Parquet file of `group_rows` rows a row group.
// `compression`: none, snappy, zstd or gzip.
int32_t rollcall_table_write(const uint8_t* path, size_t path_size, const uint8_t* rows,
                             size_t rows_size, uint64_t group_rows, const uint8_t* compression,
                             size_t compression_size, RollcallBytes* error);

// Always panics inside the crate.
int32_t rollcall_text_panic_for_test(RollcallBytes* error);
// Work without end that may take so long; refused.
int32_t rollcall_text_endless_for_test(uint64_t milliseconds, RollcallBytes* error);

}  // extern "C"
