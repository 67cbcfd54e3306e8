"""The four dashboards, as code: python3 deploy/grafana/dashboards.py writes deploy/grafana/dashboards/*.json.

A panel is a title, a unit and queries; Grafana's JSON around them is made here. All dashboards choose a data source and
a namespace, and fit one screen a row.
"""

import json
import pathlib

FOLDER = pathlib.Path(__file__).parent / "dashboards"
SELECT = 'namespace=~"$namespace"'


def step(name, legend=None):
    """A figure of the last step, by its name in metrics.jsonl."""
    return f'rollcall_learner_step_value{{{SELECT},name="{name}"}}', legend or name


def steps(pattern):
    return f'rollcall_learner_step_value{{{SELECT},name=~"{pattern}"}}', "{{name}}"


def rate(metric, by=None, where="", window="1m"):
    chosen = f"{SELECT},{where}" if where else SELECT
    inner = f"rate({metric}{{{chosen}}}[{window}])"
    return (f"sum by ({by}) ({inner})", f"{{{{{by}}}}}") if by else (f"sum({inner})", metric)


def gauge(metric, legend="{{instance}}", where=""):
    return f"{metric}{{{SELECT}{',' + where if where else ''}}}", legend


def quantile(metric, q, by=None, window="5m"):
    labels = f"le, {by}" if by else "le"
    legend = f"p{round(q * 100)}" + (f" {{{{{by}}}}}" if by else "")
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{SELECT}}}[{window}])))", legend


TRAINING = [
    ("Reward", "none", [step("reward/mean", "mean"), step("eval/reward/mean", "held out")]),
    ("Reward by verifier", "none", [steps("reward/[^/]+")]),
    ("Spread of rewards", "none", [step("reward/std", "std"),
                                   step("reward/zero_variance_groups", "groups without variance")]),
    ("Entropy", "none", [step("entropy")]),
    ("KL to the reference", "none", [step("kl", "of the objective"), step("reference_kl_k1", "k1"),
                                     step("reference_kl_k3", "k3")]),
    ("KL from the sampler", "none", [step("behavior_kl_k1", "k1"), step("behavior_kl_k3", "k3")]),
    ("Log-prob gap to the rollout", "none", [step("logprob_gap")]),
    ("Clipped tokens", "percentunit", [step("clip_fraction_low", "low"), step("clip_fraction_high", "high")]),
    ("Ratio", "none", [step("ratio_min", "min"), step("ratio_mean", "mean"), step("ratio_max", "max")]),
    ("Loss", "none", [step("loss"), step("policy_loss")]),
    ("Gradient norm", "none", [step("grad_norm")]),
    ("Learning rate", "sci", [step("lr")]),
    ("Advantages", "none", [steps("advantage_.*")]),
    ("Step", "none", [gauge("rollcall_learner_step", "step"), gauge("rollcall_learner_run_over", "run is over")]),
    ("Seconds of a step by phase", "s", [steps("time/.*_seconds")]),
    ("Trained tokens a second", "none", [step("tokens_per_second", "step"),
                                         step("time/train_tokens_per_second", "trainer alone")]),
    ("Model FLOPs utilisation", "percentunit", [step("mfu", "trainer")]),
    ("Skipped updates", "none", [step("skipped_updates")]),
    ("Age of the last checkpoint", "s", [(f"time() - rollcall_learner_last_checkpoint_timestamp_seconds{{{SELECT}}}",
                                          "age")]),
    ("Checkpoint time", "s", [quantile("rollcall_learner_checkpoint_seconds", 0.9)]),
]

ROLLOUTS = [
    ("Groups by state", "none", [gauge("rollcall_learner_groups", "{{state}}"),
                                 gauge("rollcall_learner_groups_issued", "issued")]),
    ("Dropped groups by reason", "none", [gauge("rollcall_learner_groups_dropped", "{{reason}}")]),
    ("Groups unaccounted for", "none", [gauge("rollcall:groups_unaccounted", "groups")]),
    ("Completion length", "none", [step("length/mean", "mean"), step("length/max", "max")]),
    ("Truncated", "percentunit", [step("length/truncated", "truncated")]),
    ("Ends by reason", "percentunit", [steps("finish/.*")]),
    ("Sampled tokens a second", "none", [rate("rollcall_generator_sampled_tokens_total", "instance")]),
    ("Prefill and decode rows a second", "none", [
        ("sum(rate(rollcall_generator_prefill_tokens_total{%s}[1m]))" % SELECT, "prefill"),
        ("sum(rate(rollcall_generator_decode_tokens_total{%s}[1m]))" % SELECT, "decode")]),
    ("Time to a request's first token", "s", [quantile("rollcall_generator_first_token_seconds", 0.5),
                                              quantile("rollcall_generator_first_token_seconds", 0.99)]),
    ("Running and waiting samples", "none", [
        ("sum(rollcall_generator_running_samples{%s})" % SELECT, "running"),
        ("sum(rollcall_generator_waiting_samples{%s})" % SELECT, "waiting")]),
    ("Key/value cache in use", "percentunit", [gauge("rollcall:kv_cache_used:ratio")]),
    ("Preemptions a second", "none", [rate("rollcall_generator_preemptions_total", "instance")]),
    ("Prefix cache: tokens saved a second", "none", [
        rate("rollcall_generator_prefix_cache_hit_tokens_total", "instance")]),
    ("Generators that serve the current version", "none", [
        gauge("rollcall_learner_generators_serving", "serving")]),
    ("Policy step by service", "none", [gauge("rollcall_learner_step", "learner"),
                                        gauge("rollcall_generator_policy_step")]),
    ("Staleness of trained groups", "none", [step("rollout/staleness", "versions")]),
    ("Weight sync", "s", [quantile("rollcall_learner_weight_sync_seconds", 0.5),
                          quantile("rollcall_learner_weight_sync_seconds", 0.9)]),
    ("Weight sync bytes a second", "Bps", [("sum(rate(rollcall_learner_weight_sync_bytes_total{%s}[5m]))" % SELECT,
                                            "bytes")]),
    ("Swap of weights", "s", [quantile("rollcall_generator_weight_swap_seconds", 0.9)]),
]

SERVICES = [
    ("Up", "none", [('up{%s,job="rollcall"}' % SELECT, "{{service}} {{instance}}")]),
    ("Build", "none", [gauge("rollcall_build_info", "{{service}} {{version}} {{build_type}}")]),
    ("Calls a second by method", "none", [rate("rollcall_rpc_server_calls_total", "method")]),
    ("Calls that failed, by status", "none", [rate("rollcall_rpc_server_calls_total", "code", 'code!="OK"')]),
    ("Latency by method", "s", [quantile("rollcall_rpc_server_seconds", 0.95, "method")]),
    ("Faults that the learner met", "none", [
        ("sum by (service, code) (rate(rollcall_learner_call_faults_total{%s}[5m]))" % SELECT,
         "{{service}} {{code}}")]),
    ("Engine step", "s", [quantile("rollcall_generator_engine_step_seconds", 0.5),
                          quantile("rollcall_generator_engine_step_seconds", 0.99)]),
    ("Reference: tokens a second", "none", [rate("rollcall_reference_tokens_total", "instance")]),
    ("Reference: waiting sequences", "none", [gauge("rollcall_reference_waiting_sequences")]),
    ("Reference: forward pass", "s", [quantile("rollcall_reference_batch_seconds", 0.95)]),
    ("Waiting work stands still", "s", [gauge("rollcall_work_stands_still_seconds", "{{service}} {{instance}}")]),
    ("Connections", "none", [gauge("rollcall_connections", "{{service}} {{instance}}")]),
    ("Refused connections and denied calls a second", "none", [
        ("sum(rate(rollcall_connections_refused_total{%s}[5m]))" % SELECT, "connections"),
        ("sum(rate(rollcall_rpc_denied_total{%s}[5m]))" % SELECT, "calls")]),
    ("Certificates: time left", "s", [
        ("rollcall_certificate_expiry_timestamp_seconds{%s} - time()" % SELECT, "{{service}} {{instance}}")]),
    ("Plain text allowed", "none", [gauge("rollcall_insecure", "{{service}} {{instance}}")]),
]

VERIFIERS = [
    ("Samples a second by outcome", "none", [rate("rollcall_reward_samples_total", "outcome")]),
    ("Requests a second", "none", [("sum(rate(rollcall_reward_requests_total{%s}[1m]))" % SELECT, "requests"),
                                   ("sum(rate(rollcall_reward_repeated_requests_total{%s}[1m]))" % SELECT,
                                    "answered from memory"),
                                   ("sum(rate(rollcall_reward_refused_requests_total{%s}[1m]))" % SELECT, "refused"),
                                   ("sum(rate(rollcall_reward_cancelled_requests_total{%s}[1m]))" % SELECT,
                                    "cancelled")]),
    ("Requests under way", "none", [gauge("rollcall_reward_pending_requests", "pending")]),
    ("Time of a request", "s", [quantile("rollcall_reward_request_seconds", 0.5),
                                quantile("rollcall_reward_request_seconds", 0.99)]),
    ("Time of a verifier", "s", [quantile("rollcall_reward_verifier_seconds", 0.95, "verifier")]),
    ("Outcomes by verifier", "none", [
        ("sum by (verifier, outcome) (rate(rollcall_reward_verifier_samples_total{%s}[1m]))" % SELECT,
         "{{verifier}} {{outcome}}")]),
    ("Share without a score", "percentunit", [gauge("rollcall:verifier_faults:ratio5m", "{{verifier}}")]),
    ("Failed calls a second", "none", [rate("rollcall_reward_verifier_failed_calls_total", "verifier")]),
    ("Further tries a second", "none", [rate("rollcall_reward_verifier_repeated_calls_total", "verifier")]),
    ("Invalid answers a second", "none", [rate("rollcall_reward_verifier_invalid_answers_total", "verifier")]),
    ("Mean score by verifier", "none", [steps("reward/[^/]+")]),
    ("Components of scores", "none", [steps("reward/[^/]+/.+")]),
]

DASHBOARDS = {"training": ("Rollcall: training health", TRAINING), "rollouts": ("Rollcall: rollouts", ROLLOUTS),
              "services": ("Rollcall: services", SERVICES), "verifiers": ("Rollcall: verifiers", VERIFIERS)}

SOURCE = {"type": "prometheus", "uid": "${source}"}


def panel(index, title, unit, queries):
    return {
        "id": index + 1, "title": title, "type": "timeseries", "datasource": SOURCE,
        "gridPos": {"x": index % 3 * 8, "y": index // 3 * 8, "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "custom": {"lineWidth": 1, "showPoints": "never",
                                                              "spanNulls": True}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [{"refId": chr(65 + i), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
                    for i, (expression, legend) in enumerate(queries)],
    }


def dashboard(name, title, panels):
    variables = [
        {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}},
        {"name": "namespace", "label": "Namespace", "type": "query", "datasource": SOURCE, "includeAll": True,
         "allValue": ".*", "current": {"text": "All", "value": "$__all"}, "refresh": 2,
         "query": {"query": "label_values(rollcall_build_info, namespace)", "refId": "namespaces"}},
    ]
    return {"uid": f"rollcall-{name}", "title": title, "tags": ["rollcall"], "schemaVersion": 39, "version": 1,
            "editable": False, "refresh": "15s", "time": {"from": "now-3h", "to": "now"},
            "templating": {"list": variables}, "annotations": {"list": []},
            "panels": [panel(i, *given) for i, given in enumerate(panels)]}


def files():
    """{file name: text} of all dashboards."""
    return {f"{name}.json": json.dumps(dashboard(name, title, panels), indent=1) + "\n"
            for name, (title, panels) in DASHBOARDS.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text)
