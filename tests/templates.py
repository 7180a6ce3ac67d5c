"""Chat templates as published models have them, after their documented formats, and folders that hold them."""

import json
from pathlib import Path

import transformers
from etils import epath
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as FastTokenizer

from ratchet.models.chat import ChatTokenizer

TURN = """{%- for m in messages %}
{%- if m.tool_calls %}{{ '<|im_start|>assistant' }}
{%- if m.content %}{{ '\\n' + m.content }}{% endif %}
{%- for c in m.tool_calls %}{% set c = c.function %}
{{- '\\n<tool_call>\\n{"name": "' + c.name + '", "arguments": ' }}{{ c.arguments | tojson }}{{ '}\\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\\n' }}
{%- elif m.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif not (m.role == 'system' and loop.first) %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

SYSTEM = """{{- '<|im_start|>system\\n' }}
{%- if messages and messages[0].role == 'system' %}{{ messages[0].content }}{% else %}{{ 'NAME' }}{% endif %}
{%- if tools %}{{ '\\n\\n# Tools\\n<tools>' }}{% for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{% endfor %}
{{- '\\n</tools>\\nAnswer with <tool_call>\\n{"name": <name>, "arguments": <args>}\\n</tool_call>' }}{% endif %}
{{- '<|im_end|>\\n' }}
"""

QWEN = SYSTEM.replace("NAME", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.") + TURN

EMPTY_THOUGHT = "{{ '<think>\\n\\n</think>\\n\\n' }}"
OPEN = "{{ '<|im_start|>assistant\\n' }}"
THINKING = (
    QWEN.replace(OPEN, OPEN + "{% if enable_thinking is false %}" + EMPTY_THOUGHT + "{% endif %}")
    .replace("{{ '<|im_start|>assistant' }}", OPEN + "{% if loop.last %}" + EMPTY_THOUGHT + "{% endif %}")
    .replace("'\\n<tool_call>\\n{\"name\": \"'", "'<tool_call>\\n{\"name\": \"'")
    .replace(
        "'<|im_start|>' + m.role + '\\n' + m.content",
        "'<|im_start|>' + m.role + '\\n' }}{% if loop.last and m.role == 'assistant' %}" + EMPTY_THOUGHT
        + "{% endif %}{{ m.content",
    )
)
"""As Qwen3 has it: the last turn begins with a thought, which is empty when thinking is switched off."""

SMOL = SYSTEM.replace("NAME", "You are a helpful AI assistant named SmolLM, trained by Hugging Face") + TURN

LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
{%- if strftime_now is defined %}{% set date_string = strftime_now("%d %b %Y") %}
{%- else %}{% set date_string = "26 Jul 2024" %}{% endif %}{% endif %}
{%- macro head(role) %}{{ '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}{% endmacro %}
{%- if messages and messages[0].role == 'system' %}{% set system = messages[0].content | trim %}
{%- set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}
{{- head('system') }}{{ system + '<|eot_id|>' }}
{%- if tools %}{{ head('user') + 'Given these functions, answer with a call.\\n\\n' }}
{%- for tool in tools %}{{ tool | tojson(indent=4) }}{{ '\\n\\n' }}{% endfor %}
{{- messages[0].content | trim + '<|eot_id|>' }}{% set messages = messages[1:] %}{% endif %}
{%- for m in messages %}
{%- if m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}
{%- set c = m.tool_calls[0].function %}
{{- head('assistant') + '{"name": "' + c.name + '", "parameters": ' }}{{ c.arguments | tojson }}{{ '}<|eot_id|>' }}
{%- elif m.role == 'tool' %}{{ head('ipython') }}
{%- if m.content is iterable %}{{ m.content | tojson }}{% endif %}{{ '<|eot_id|>' }}
{%- else %}{{ head(m.role) + m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ head('assistant') }}{% endif %}"""

DATED = LLAMA.replace("{{ system +", "{{ 'Today Date: ' + date_string + '\\n\\n' + system +")

MISTRAL = """{{- bos_token }}
{%- if messages and messages[0].role == 'system' %}{% set system = messages[0].content + '\\n\\n' %}
{%- set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if tools is not none and loop.last %}
{{- '[AVAILABLE_TOOLS]' }}{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}{% endif %}
{{- '[INST]' + (system if loop.last else '') + m.content + '[/INST]' }}
{%- elif m.tool_calls is defined %}{{ '[TOOL_CALLS][' }}{% for c in m.tool_calls %}
{%- if c.id | length != 9 %}{{ raise_exception('ids have nine letters') }}{% endif %}
{{- (c.function | tojson)[:-1] + ', "id": "' + c.id[-9:] + '"}' }}{% endfor %}{{ ']' + eos_token }}
{%- elif m.role == 'tool' %}
{{- '[TOOL_RESULTS]{"content": ' + m.content + ', "call_id": "' + m.tool_call_id[-9:] + '"}[/TOOL_RESULTS]' }}
{%- else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"""

DEEPSEEK = """{{- bos_token }}{% for m in messages %}
{%- if m.role == 'system' %}{{ m.content }}
{%- elif m.role == 'user' %}{{ '<|User|>' + m.content }}
{%- elif m.tool_calls %}{{ '<|Assistant|>' }}{% for c in m.tool_calls %}
{{- '<|call|>' + c.function.name + '<|sep|>' + c.function.arguments + '<|/call|>' }}{% endfor %}{{ '<|end|>' }}
{%- elif m.role == 'tool' %}{{ '<|result|>' + m.content + '<|/result|>' }}
{%- else %}{{ '<|Assistant|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|Assistant|>' }}{% endif %}"""

GEMMA = """{{- bos_token }}
{%- if messages and messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- set role = 'model' if m.role == 'assistant' else m.role %}
{{- '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

ZEPHYR = """{%- for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

SYMBOLS = {
    "qwen": "<|im_start|> <|im_end|>",
    "thinking": "<|im_start|> <|im_end|>",
    "smol": "<|im_start|> <|im_end|>",
    "llama": "<|start_header_id|> <|end_header_id|> <|eot_id|>",
    "mistral": "[INST] [/INST] [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS]",
    "deepseek": "<|User|> <|Assistant|> <|call|> <|sep|> <|/call|> <|result|> <|/result|> <|end|>",
    "gemma": "<start_of_turn> <end_of_turn>",
    "zephyr": "",
}
"""The special tokens of their tokenizers."""
TEMPLATES = {
    "qwen": QWEN, "thinking": THINKING, "smol": SMOL, "llama": LLAMA, "mistral": MISTRAL, "deepseek": DEEPSEEK,
    "gemma": GEMMA, "zephyr": ZEPHYR,
}
TOOLLESS = ("gemma", "zephyr")
ADDED = {"qwen": ("<tool_call>", "</tool_call>"), "thinking": ("<tool_call>", "</tool_call>", "<think>", "</think>")}
"""Tokens that their tokenizers have beside the special ones."""
ENDS = {"mistral": "</s>", "llama": "<|eot_id|>", "deepseek": "<|end|>", "gemma": "<end_of_turn>", "zephyr": "</s>"}
TEXT = 'what is it and system user assistant {"name": "lookup", "arguments": {"query": "it"}} Yes No Question Source'


def write_folder(place, kind, template=None, *, metaspace="", rstrip=False):
    """A folder of such a model. Its tokenizer is byte-level, as Qwen's, or puts spaces by a scheme, as Llama 2's."""
    place = Path(place)
    place.mkdir(parents=True, exist_ok=True)
    made = spaced_tokenizer(metaspace) if metaspace else FastTokenizer(models.BPE())
    if not metaspace:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", *SYMBOLS[kind].split()]
    spelled = [f"<0x{byte:02X}>" for byte in range(256)] if metaspace else []
    trainer = trainers.BpeTrainer(
        vocab_size=700, show_progress=False, initial_alphabet=[] if metaspace else pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[*(AddedToken(n, special=True, normalized=False, rstrip=rstrip) for n in special), *spelled],
    )
    made.train_from_iterator([TEXT, "Yes", "No"] * 5, trainer)
    made.add_tokens([AddedToken(name, special=False, normalized=False) for name in ADDED.get(kind, ())])
    if "bos_token" in TEMPLATES[kind]:
        made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    whole = json.loads(made.to_str())
    whole["added_tokens"] = [token for token in whole["added_tokens"] if token["content"] not in spelled]
    (place / "tokenizer.json").write_text(json.dumps(whole))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    written = {**settings, "chat_template": template or TEMPLATES[kind]}
    (place / "tokenizer_config.json").write_text(json.dumps(written))
    return epath.Path(place)


def spaced_tokenizer(scheme) -> FastTokenizer:
    """A tokenizer that puts a space before a text, in one of the ways that there are."""
    made = FastTokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    if scheme == "prepend":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def by_transformers(place, messages, *, tools=(), open_turn=False):
    """The tokens of a chat and the mask of what the assistant says."""
    made = transformers.AutoTokenizer.from_pretrained(place).apply_chat_template(
        messages, tools=list(tools) or None, add_generation_prompt=open_turn, return_dict=True,
        return_assistant_tokens_mask=True,
    )  # fmt: skip
    return list(made["input_ids"]), made["assistant_masks"]


def by_us(place, messages, **given):
    """The same by us."""
    made = ChatTokenizer.load(epath.Path(place)).chat(messages, **given)
    return made.tokens.tolist(), made.said.astype(int).tolist()
