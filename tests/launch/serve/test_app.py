"""The server as its clients meet it: OpenAI's own client, and what lm-eval asks, over a loopback socket."""

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
import torch
import transformers
from serving import of_folder, write_folder

from ratchet.launch.serve import desk
from ratchet.launch.serve.listening import answering

PROMPT = "what is it and user"
TEXTS = ("what is it and system user", "be brief and it", "assistant and it is doubled what what what")
AT_ONCE = {"temperature": 0.0, "seed": 1234}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("speaker"))


@pytest.fixture(scope="module")
def name(folder):
    return folder.name


@pytest.fixture(scope="module")
def address(folder):
    with answering(of_folder(folder)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.AutoTokenizer.from_pretrained(folder), transformers.AutoModelForCausalLM.from_pretrained(folder)


def post(address, path, body):
    """(status, JSON) of a request as any program may make one."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def get(address, path):
    with urllib.request.urlopen(f"{address}/{path}") as answer:
        return json.loads(answer.read())


def logs_of(model, ids):
    """transformers' log-probabilities [N - 1, V] of what follows each token."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1].double(), -1).numpy()


def greedy(model, ids, count):
    with torch.no_grad():
        made = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False, pad_token_id=0)
    return made[0, len(ids) :].tolist()


def test_a_greedy_completion_is_that_of_transformers(client, name, theirs):
    tokenizer, model = theirs
    ids = tokenizer(PROMPT)["input_ids"]
    made = client.completions.create(model=name, prompt=PROMPT, max_tokens=24, logprobs=3, **AT_ONCE)
    want = greedy(model, ids, 24)
    choice, logs = made.choices[0], logs_of(model, [*ids, *want])[len(ids) - 1 :]
    assert choice.text == tokenizer.decode(want, skip_special_tokens=True)
    np.testing.assert_allclose(choice.logprobs.token_logprobs, logs[np.arange(len(want)), want], atol=2e-4)
    assert [max(top.values()) for top in choice.logprobs.top_logprobs] == choice.logprobs.token_logprobs
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (len(ids), len(want))


@pytest.mark.parametrize("as_ids", [True, False])
def test_what_lm_eval_asks_gives_transformers_log_likelihoods(address, name, theirs, as_ids):
    """Its request word for word, read as it reads it: `token_logprobs[context:-1]`, and greedy where each is the most
    of `top_logprobs`."""
    tokenizer, model = theirs
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    if as_ids:
        ids[1] = [*ids[0][:3], *greedy(model, ids[0][:3], 4)]
    prompt = ids if as_ids else TEXTS
    body = {"model": name, "prompt": prompt, "max_tokens": 1, "logprobs": 1, "echo": True, **AT_ONCE}
    status, made = post(address, "v1/completions", body)
    assert status == 200 and [c["index"] for c in made["choices"]] == [0, 1, 2]
    for one, choice in zip(ids, made["choices"], strict=True):
        logs, context = choice["logprobs"], 3
        assert len(logs["token_logprobs"]) == len(logs["tokens"]) == len(logs["top_logprobs"]) == len(one) + 1
        assert logs["token_logprobs"][0] is None and logs["top_logprobs"][0] is None
        own = logs_of(model, one)
        want = own[np.arange(len(one) - 1), one[1:]][context - 1 :]
        np.testing.assert_allclose(logs["token_logprobs"][context:-1], want, atol=2e-4)
        told = zip(logs["token_logprobs"][context:-1], logs["top_logprobs"][context:-1], strict=True)
        is_greedy = all(log == max(top.values()) for log, top in told)
        assert is_greedy == (own.argmax(-1)[context - 1 :].tolist() == one[context:]) == (as_ids and one is ids[1])
        text = tokenizer.decode(one)
        assert choice["text"].startswith(text) and logs["text_offset"][-1] == len(text)
    assert made["usage"]["prompt_tokens"] == sum(map(len, ids)) and made["usage"]["completion_tokens"] == 3


def test_scored_and_sampled_tokens_have_the_same_log_probabilities(client, name):
    """A prompt is scored by one program, what is said comes from another; with a stop string the latter says it all."""
    ask = {"model": name, "prompt": PROMPT, "echo": True, "logprobs": 5, **AT_ONCE}
    quick = client.completions.create(max_tokens=1, **ask).choices[0]
    slow = client.completions.create(max_tokens=1, stop=["never said"], **ask).choices[0]
    assert quick.text == slow.text and quick.logprobs.tokens == slow.logprobs.tokens
    both = (quick.logprobs.token_logprobs[-1], slow.logprobs.token_logprobs[-1])
    assert quick.logprobs.text_offset == slow.logprobs.text_offset and abs(both[0] - both[1]) < 1e-4
    only = client.completions.create(max_tokens=0, **ask).choices[0]
    assert only.text == PROMPT and only.logprobs.token_logprobs == quick.logprobs.token_logprobs[:-1]
    assert only.finish_reason == "length"


def test_a_seed_gives_the_same_whatever_else_is_asked_and_each_choice_its_own(client, name):
    ask = {"model": name, "prompt": PROMPT, "max_tokens": 20, "seed": 5, "n": 3}
    alone = [choice.text for choice in client.completions.create(**ask).choices]
    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(client.completions.create, **ask | {"prompt": text, "seed": 1}) for text in TEXTS]
        again = pool.submit(client.completions.create, **ask)
        assert [choice.text for choice in again.result().choices] == alone
        assert all(len(other.result().choices) == 3 for other in others)
    assert len(set(alone)) == 3
    assert [c.text for c in client.completions.create(**ask | {"seed": 6}).choices] != alone


@pytest.mark.parametrize("stop", [None, ["it", "and"]])
def test_a_stream_says_what_the_whole_answer_says(client, name, stop):
    ask = {"model": name, "prompt": [PROMPT, "be brief"], "max_tokens": 40, "seed": 2, "n": 2, "logprobs": 2}
    ask |= {"stop": stop, "temperature": 0.6}
    whole = client.completions.create(**ask)
    texts, logs, ends, usage = [""] * 4, [[] for _ in range(4)], [None] * 4, None
    with client.completions.create(**ask, stream=True, stream_options={"include_usage": True}) as events:
        for event in events:
            usage = event.usage or usage
            for choice in event.choices:
                texts[choice.index] += choice.text
                logs[choice.index] += choice.logprobs.token_logprobs
                ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [choice.text for choice in whole.choices] and usage == whole.usage
    for told, choice in zip(logs, whole.choices, strict=True):  # sums over a ring begin elsewhere
        np.testing.assert_allclose(told, choice.logprobs.token_logprobs, atol=1e-4)
    assert ends == [choice.finish_reason for choice in whole.choices]
    if stop:
        assert "stop" in ends and not any(one in text for one in stop for text in texts)


def test_a_chat_is_answered_in_the_folders_template(client, name, theirs):
    tokenizer, model = theirs
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is it"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    want = greedy(model, ids, 12)
    parts = [messages[0], {"role": "user", "content": [{"type": "text", "text": t} for t in ("what ", "is it")]}]
    ask = {"model": name, "max_completion_tokens": 12, "logprobs": True, "top_logprobs": 2, **AT_ONCE}
    made = client.chat.completions.create(messages=parts, **ask)
    choice, logs = made.choices[0], logs_of(model, [*ids, *want])[len(ids) - 1 :]
    assert choice.message.content == tokenizer.decode(want, skip_special_tokens=True).lstrip()
    assert choice.message.role == "assistant" and made.usage.prompt_tokens == len(ids)
    told = choice.logprobs.content
    np.testing.assert_allclose([one.logprob for one in told], logs[np.arange(len(want)), want], atol=2e-4)
    assert all(len(one.top_logprobs) == 2 and one.top_logprobs[0].logprob == one.logprob for one in told)
    assert all(bytes(one.bytes).decode(errors="replace") for one in told)
    with client.chat.completions.create(messages=messages, stream=True, **ask) as events:
        deltas = [event.choices[0] for event in events]
    assert "".join(delta.delta.content or "" for delta in deltas) == choice.message.content
    assert deltas[0].delta.role == "assistant" and deltas[-1].finish_reason == choice.finish_reason


def test_a_schema_is_kept_to(client, name):
    schema = {"type": "object", "properties": {"is": {"enum": ["brief", "doubled"]}}, "required": ["is"]}
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema | {"additionalProperties": False}}}
    messages = [{"role": "user", "content": "what is it"}]
    with ThreadPoolExecutor(4) as pool:
        ask = lambda seed: client.chat.completions.create(
            model=name, messages=messages, response_format=form, seed=seed, max_tokens=60
        )
        free = pool.submit(client.completions.create, model=name, prompt=PROMPT, max_tokens=8)
        made = list(pool.map(ask, range(2)))
        assert free.result().choices[0].finish_reason
    assert {json.loads(one.choices[0].message.content)["is"] for one in made} <= {"brief", "doubled"}


@pytest.mark.parametrize("stream", [False, True])
def test_who_asks_a_server_with_too_much_to_do_is_told_to_come_again(client, name, monkeypatch, stream):
    monkeypatch.setattr(desk, "MOST_WAITING", 0)
    with pytest.raises(openai.InternalServerError, match="too much to do; try again later") as refused:
        client.completions.create(model=name, prompt=PROMPT, n=2, stream=stream)
    assert refused.value.status_code == 503 and refused.value.response.headers["Retry-After"] == "1"


@pytest.mark.parametrize("stream", [False, True])
def test_why_the_model_failed_is_said_and_the_next_is_answered(address, name, monkeypatch, stream):
    def fail(*_):
        raise RuntimeError("a chip is gone")

    ask = {"model": name, "prompt": PROMPT, "max_tokens": 2}
    with monkeypatch.context() as patch:
        patch.setattr(desk.Round, "step", fail)
        status, said = post(address, "v1/completions", ask | {"stream": stream})
    assert status == 500 and said["error"]["message"] == "the server failed: a chip is gone"
    assert post(address, "v1/completions", ask)[1]["usage"]["completion_tokens"] == 2


def test_an_object_has_its_members_in_the_order_of_its_schema(client, name):
    """Of two schemas that differ in nothing else as well."""
    values = {"one": {"const": 1}, "two": {"const": 2}}
    for names in (["one", "two"], ["two", "one"]):
        properties = {name: values[name] for name in names}
        schema = {"type": "object", "properties": properties, "required": names, "additionalProperties": False}
        made = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "what is it"}], max_tokens=60,
            response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": schema}},
        )  # fmt: skip
        assert list(json.loads(made.choices[0].message.content)) == names


@pytest.mark.parametrize("at", ["", "v1/"])
def test_the_tokenizer_is_that_of_the_folder(address, name, theirs, at):
    tokenizer = theirs[0]
    for text in (*TEXTS, "<|im_start|>user\nit<|im_end|>", "é–字🙂 \n\t x"):
        for special in (True, False):
            status, made = post(address, f"{at}tokenize", {"prompt": text, "add_special_tokens": special})
            want = tokenizer(text, add_special_tokens=special)["input_ids"]
            assert status == 200 and made["tokens"] == want and made["count"] == len(want)
        _, back = post(address, f"{at}detokenize", {"model": name, "tokens": want})
        assert back == {"prompt": tokenizer.decode(want)}
    info = get(address, f"{at}tokenizer_info")
    assert (info["eos_token"], info["bos_token"]) == (tokenizer.eos_token, tokenizer.bos_token)
    assert info["chat_template"] == tokenizer.chat_template
    messages = [{"role": "user", "content": "what is it"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert post(address, f"{at}tokenize", {"messages": messages})[1]["tokens"] == ids
    assert [model["id"] for model in get(address, f"{at}models")["data"]] == [name]
    assert get(address, f"{at}models/{name}")["max_model_len"] == 192


def test_a_text_that_ends_within_a_letter_is_no_error(address, name):
    """The bytes of 字 one by one: each is a token here, and none is a letter."""
    tokens = post(address, "tokenize", {"prompt": "字"})[1]["tokens"]
    ask = {"model": name, "prompt": tokens[:2], "max_tokens": 1, "logprobs": 1, "echo": True, **AT_ONCE}
    logs = post(address, "v1/completions", ask)[1]["choices"][0]["logprobs"]
    assert len(tokens) == 3 and logs["tokens"][:2] == ["bytes:\\xe5", "bytes:\\xad"]
    assert logs["text_offset"][:2] == [0, 0]


WRONG = [
    ({"model": "gpt-4"}, 404, "model", "model_not_found"),
    ({"model": None}, 400, "model", "missing_required_parameter"),
    ({"prompt": None}, 400, "prompt", "missing_required_parameter"),
    ({"prompt": ""}, 400, "prompt", None),
    ({"prompt": []}, 400, "prompt", None),
    ({"prompt": [3, 299]}, 400, "prompt", None),
    ({"prompt": [-1]}, 400, "prompt", None),
    ({"prompt": {"a": 1}}, 400, "prompt", None),
    ({"prompt": "hi \ud83d"}, 400, "prompt", None),
    ({"prompt": ["what"] * 40, "n": 128}, 400, "prompt", None),
    ({"\ud800": 1}, 400, None, None),
    ({"prompt": "what " * 200}, 400, "prompt", "context_length_exceeded"),
    ({"max_tokens": 192}, 400, "prompt", "context_length_exceeded"),
    ({"max_tokens": -1}, 400, "max_tokens", None),
    ({"temperature": 2.5}, 400, "temperature", None),
    ({"temperature": "hot"}, 400, "temperature", None),
    ({"top_p": 0}, 400, "top_p", None),
    ({"n": 0}, 400, "n", None),
    ({"n": 129}, 400, "n", None),
    ({"best_of": 3}, 400, "best_of", None),
    ({"logprobs": 21}, 400, "logprobs", None),
    ({"stop": ["a"] * 17}, 400, "stop", None),
    ({"stop": ""}, 400, "stop", None),
    ({"stop_token_ids": [5]}, 400, "stop_token_ids", None),
    ({"stop_token_ids": [-1]}, 400, "stop_token_ids", None),
    ({"presence_penalty": 0.5}, 400, "presence_penalty", "unsupported_parameter"),
    ({"temprature": 1}, 400, "temprature", "unknown_parameter"),
    ({"stream_options": {"usage": True}}, 400, "stream_options", "unknown_parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "status", "param", "code"), WRONG)
def test_a_mistake_has_its_status_and_names_what_is_wrong(address, name, change, status, param, code):
    body = {"model": name, "prompt": PROMPT, "max_tokens": 2, "user": "me", "presence_penalty": 0} | change
    got, made = post(address, "v1/completions", body)
    error = made["error"]
    assert (got, error["param"], error["code"]) == (status, param, code), error
    assert error["type"] == "invalid_request_error" and "\n" not in error["message"]


def test_an_echo_in_parts_has_the_ids_of_the_whole(address, name):
    """Both answer with the prompt first, and of ids with those that were said alone."""
    ask = {"model": name, "prompt": PROMPT * 4, "max_tokens": 8, "echo": True, "return_token_ids": True, **AT_ONCE}
    (whole,) = post(address, "v1/completions", ask)[1]["choices"]
    body = json.dumps(ask | {"stream": True}).encode()
    request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        lines = [line.removeprefix("data: ") for line in answer.read().decode().split("\n\n") if line]
    choices = [json.loads(line)["choices"][0] for line in lines[:-1]]
    assert [i for c in choices for i in c["token_ids"]] == whole["token_ids"] and len(whole["token_ids"]) == 8
    assert [c.get("prompt_token_ids") for c in choices] == [whole["prompt_token_ids"], *[None] * (len(choices) - 1)]
    assert "".join(c["text"] for c in choices) == whole["text"]


def test_whoever_wants_more_of_the_likeliest_than_there_are_gets_all(address, name):
    ask = {"model": name, "prompt": PROMPT, "max_tokens": 4, "seed": 1}
    free = post(address, "v1/completions", ask)[1]["choices"][0]["text"]
    status, made = post(address, "v1/completions", ask | {"top_k": 2**40})
    assert status == 200 and made["choices"][0]["text"] == free
    assert post(address, "v1/completions", ask | {"top_p": 1e-46})[1]["choices"][0]["text"] == (
        post(address, "v1/completions", ask | {"temperature": 0})[1]["choices"][0]["text"]
    )


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"content": "hi"}, "messages.0.role: Field required"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, "messages.0.tool_calls.0.function: Field required"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, "a part of the type text has a text"),
        ({"role": "user", "content": "hi \ud83d"}, "messages: "),
        ({"role": "user", "content": [{"type": "\ud83d\n"}]}, r"no part of the type '\ud83d\n'"),
    ],
)
def test_what_is_wrong_in_a_message_is_named_where_it_stands(address, name, message, said):
    status, made = post(address, "v1/chat/completions", {"model": name, "messages": [message], "max_tokens": 2})
    assert status == 400 and said in made["error"]["message"] and made["error"]["param"] == "messages"


def test_a_page_that_has_its_own_name_lead_here_is_refused(address):
    for name, status in (("evil.example", 400), ("localhost:8000", 200)):
        request = urllib.request.Request(f"{address}/v1/models", headers={"Host": name})
        if status == 200:
            urllib.request.urlopen(request).close()
        else:
            with pytest.raises(urllib.error.HTTPError, match="400") as refused:
                urllib.request.urlopen(request)
            refused.value.close()


@pytest.mark.parametrize("path", ["v1/completions", "tokenize"])
def test_a_page_of_another_site_may_ask_nothing(address, name, path):
    body = json.dumps({"model": name, "prompt": "so"}).encode()
    for origin, status in (("http://evil.example", 403), ("http://[", 403), ("null", 403), (address, 200)):
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        request = urllib.request.Request(f"{address}/{path}", body, headers)
        if status == 200:
            urllib.request.urlopen(request).close()
        else:
            with pytest.raises(urllib.error.HTTPError, match="403") as refused:
                urllib.request.urlopen(request)
            refused.value.close()


def test_other_mistakes_are_told_alike(address, client, name):
    assert post(address, "v1/completions", b"{")[0] == 400 and post(address, "v1/completions", b"[]")[0] == 400
    assert post(address, "v1/embeddings", {})[1]["error"]["code"] == "unknown_url"
    with pytest.raises(urllib.error.HTTPError, match="405") as wrong:
        get(address, "v1/completions")
    assert json.loads(wrong.value.read())["error"]["type"] == "invalid_request_error"
    wrong.value.close()
    messages = [{"role": "user", "content": "what is it"}]
    ask = lambda **more: client.chat.completions.create(**{"model": name, "messages": messages} | more)
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    refused = {"tools": [tool]}, {"messages": []}, {"messages": image}, {"response_format": broken}, {"max_tokens": 500}
    for more in refused:
        with pytest.raises(openai.BadRequestError):
            ask(**more)
    with pytest.raises(openai.NotFoundError, match=f"this server has '{name}'"):
        ask(model="another")
    assert ask().choices[0].finish_reason in ("stop", "length"), "as much as there is room for, where nothing is said"
