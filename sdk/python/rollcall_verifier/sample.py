"""What a scoring function is given."""

import dataclasses
from typing import Any, Dict, List, Tuple


@dataclasses.dataclass(frozen=True)
class Sample:
    """One completion and the row of data it answers."""

    # The completion, decoded, and its tokens as sampled, stop token included.
    text: str
    token_ids: Tuple[int, ...]
    # "stop_token", "stop_string", "length" or "context": why it ended.
    finish_reason: str
    # The prompt as the policy saw it, and as messages ({"role": ..., "content": ...}).
    prompt: str
    prompt_messages: List[Dict[str, str]]
    # The data row's other columns; whole numbers are ints.
    columns: Dict[str, Any]
    # Samples of one prompt share the group id; the index tells them apart.
    group_id: int
    index: int


def _plain(value):
    """A google.protobuf.Value as plain Python."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    if kind == "struct_value":
        return {name: _plain(field) for name, field in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_plain(element) for element in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def samples_of(group, finish_reasons):
    """The Samples of a VerifierGroup; `finish_reasons` is the enum FinishReason."""
    columns = {name: _plain(value) for name, value in group.columns.fields.items()}
    messages = [{"role": message.role, "content": message.content} for message in group.prompt_messages]
    return [
        Sample(
            text=sample.text,
            token_ids=tuple(sample.token_ids),
            finish_reason=finish_reasons.Name(sample.finish_reason).removeprefix("FINISH_REASON_").lower(),
            prompt=group.prompt_text,
            prompt_messages=messages,
            columns=columns,
            group_id=group.group_id,
            index=sample.index,
        )
        for sample in group.samples
    ]
