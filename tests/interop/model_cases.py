"""The models that make_models.py makes, and what each is for."""

BASE = {"vocab_size": 160, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-3, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False}
HEADS = {"causal_lm": "ForCausalLM", "reward": "ForSequenceClassification", "critic": "ForTokenClassification"}
# One factor for each pair of the 12 rotated elements of a head. The first is 1: the fastest wave's angles are then whole
# numbers, which float32 has exactly.
SHORT, LONG = [1.0, 1.2, 1.5, 2.0, 2.2, 2.6], [1.0, 1.7, 2.5, 4.0, 7.0, 11.0]

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64,
        "beta_fast": 8.0, "beta_slow": 1.0}


def rope(**values):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, **values}}


# Name: (class prefix, config, head).
CASES = {
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 0, 1], "mlp_bias": True, "tie_word_embeddings": True}, "causal_lm"),
    "smollm3_window": ("SmolLM3", {"no_rope_layers": [0, 1, 1], "use_sliding_window": True, "sliding_window": 11,
                                   "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
                       "causal_lm"),
    "llama_bias": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 10}, "causal_lm"),
    "llama_yarn": ("Llama", rope(**YARN), "causal_lm"),
    "llama_yarn_mscale": ("Llama", rope(**YARN, mscale=0.8, mscale_all_dim=0.4, truncate=False), "causal_lm"),
    "llama_dynamic": ("Llama", {**rope(rope_type="dynamic", factor=2.0), "max_position_embeddings": 48}, "causal_lm"),
    "llama_longrope": ("Llama", rope(rope_type="longrope", short_factor=SHORT, long_factor=LONG, factor=4.0,
                                     original_max_position_embeddings=64), "causal_lm"),
    "mistral_full": ("Mistral", {"sliding_window": None, "head_dim": 14}, "causal_lm"),
    "mixtral_window": ("Mixtral", {"sliding_window": 13, "num_local_experts": 5, "num_experts_per_tok": 3}, "causal_lm"),
    "qwen2_window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}, "causal_lm"),
    "qwen3_window": ("Qwen3", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2, "head_dim": 16,
                               "attention_bias": True}, "causal_lm"),
    "qwen3_yarn": ("Qwen3", {**rope(**YARN), "head_dim": 12}, "causal_lm"),
    "qwen3_moe_mixed": ("Qwen3Moe", {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
                                     "head_dim": 12, "mlp_only_layers": [1], "norm_topk_prob": False}, "causal_lm"),
    "qwen3_moe_window": ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                                      "head_dim": 12, "norm_topk_prob": True, "use_sliding_window": True,
                                      "sliding_window": 17}, "causal_lm"),
    "gemma2_untied": ("Gemma2", {"head_dim": 16, "sliding_window": 10, "query_pre_attn_scalar": 20,
                                 "attn_logit_softcapping": 4.0, "final_logit_softcapping": 8.0,
                                 "attention_bias": True}, "causal_lm"),
    "gemma3_rope": ("Gemma3Text", {
        "head_dim": 16, "sliding_window": 10, "query_pre_attn_scalar": 20, "final_logit_softcapping": 8.0,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {"full_attention": {"rope_type": "linear", "rope_theta": 5e4, "factor": 8.0},
                            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}}, "causal_lm"),
    "phi3_longrope": ("Phi3", {"partial_rotary_factor": 0.5, "hidden_size": 96, "original_max_position_embeddings": 64,
                               "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": SHORT,
                                                   "long_factor": LONG, "partial_rotary_factor": 0.5}}, "causal_lm"),
    "phi3_window": ("Phi3", {"sliding_window": 12, "tie_word_embeddings": True}, "causal_lm"),
    "olmo2_tied": ("Olmo2", {"attention_bias": True, "tie_word_embeddings": True}, "causal_lm"),
}
# Of these transformers has no class.
ABSENT = {("critic", "Olmo2"), ("critic", "Gemma3Text")}
# Of some, how save_pretrained is asked to store them: dtypes, and all experts of a layer in one tensor.
STORED = {"mistral_full": {"dtype": "float16"}, "olmo2_tied": {"dtype": "bfloat16"},
          "mixtral_window": {"save_original_format": False}, "qwen3_moe_mixed": {"save_original_format": False}}

for _head in ("reward", "critic"):
    for _prefix, _config in (
            ("Llama", {}), ("Mistral", {"sliding_window": 12}), ("Qwen2", {}), ("Qwen3", {"head_dim": 16}), ("Phi3", {}),
            ("SmolLM3", {"no_rope_layers": [1, 0, 1]}), ("Olmo2", {}),
            ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
            ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 12}),
            ("Gemma2", {"head_dim": 16, "sliding_window": 10, "query_pre_attn_scalar": 20}),
            ("Gemma3Text", {"head_dim": 16, "sliding_window": 10, "query_pre_attn_scalar": 20})):
        if (_head, _prefix) not in ABSENT:
            CASES[f"{_head}_{_prefix.lower()}"] = (_prefix, {**_config, "num_labels": 1}, _head)
