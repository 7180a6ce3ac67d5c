"""A small server that speaks OpenAI's web API, on a loopback port, and fails as real ones do when it is told to."""

import contextlib
import json
import math
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Faulty:
    """What a server answers: what it is to `say` is a text, with or without the reason to end, or a message that calls.
    `faults` says by the number of a chat, from 0 on, what goes wrong with it: a status, "cut", "malformed", "empty",
    "stall", "drip" or "drop", which send a letter now and then, of the answer or of its headers, until the client
    leaves, or "gone", after which the server answers no more.

    `likely` gives the probability of each first token of a chat's answer, where they are asked for; None: they are
    never shown. `paid` counts the chats that were answered whole, by their content.
    """

    def __init__(self, say, faults=(), *, models=("writer",), echoes=True, key=None, context=4096, likely=None):
        self.say, self.faults, self.models, self.echoes = say, dict(faults), models, echoes
        self.key, self.context, self.likely = key, context, likely
        self.asked, self.gone, self.paid = 0, False, Counter()
        self.lock, self.released = threading.Lock(), threading.Event()

    @contextlib.contextmanager
    def serving(self):
        """Its address, up to and with /v1."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"faulty": self}))
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            self.released.set()
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, body):
        """A chat's answer."""
        text, finish = self.say(body), "stop"
        if isinstance(text, tuple):
            text, finish = text
        message = {"role": "assistant", "content": text}
        if isinstance(text, dict):
            message, finish = {"role": "assistant", "content": None, **text}, "tool_calls"
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        likely = self.likely(body) if self.likely and body.get("logprobs") else None
        if likely:
            pairs = likely.items() if isinstance(likely, dict) else likely
            of = [{"token": token, "logprob": math.log(share)} for token, share in pairs]
            shown = [*of, *({"token": f"t{n}", "logprob": -30.0} for n in range(len(of), body["top_logprobs"]))]
            choice["logprobs"] = {"content": [{**of[0], "top_logprobs": shown}]}
        return {"choices": [choice], "usage": usage}

    def completion(self, body):
        """A completion's, whose prompt has a token a letter; one that does not echo gives what is new alone."""
        prompt = [ord(c) for c in body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
        logs = [None, *[-1.0] * (len(prompt) - 1)] if self.echoes and body.get("echo") else []
        made = {"index": 0, "text": "x", "logprobs": {"token_logprobs": [*logs, -0.5]}, "prompt_token_ids": prompt}
        return {"choices": [made], "usage": {"prompt_tokens": len(prompt), "completion_tokens": 1}}


class _Handler(BaseHTTPRequestHandler):
    faulty: Faulty

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self._admitted():
            data = [{"id": name, "max_model_len": self.faulty.context} for name in self.faulty.models]
            self._send(200, json.dumps({"data": data}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._admitted():
            return
        if self.path.endswith("/chat/completions"):
            self._chat(body)
        else:
            self._send(200, json.dumps(self.faulty.completion(body)))

    def _admitted(self):
        f = self.faulty
        if f.gone:
            self.close_connection = True
            return False
        if f.key and self.headers["Authorization"] != f"Bearer {f.key}":
            self._send(401, json.dumps({"error": {"message": "expired"}}))
            return False
        return True

    def _chat(self, body):
        f = self.faulty
        with f.lock:
            fault, f.asked = f.faults.get(f.asked), f.asked + 1
        whole = json.dumps(f.answer(body))
        if fault == "gone":
            f.gone = True
        if fault in ("cut", "gone"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[:20].encode())
            self.close_connection = True
        elif fault == "stall":
            f.released.wait()
            self.close_connection = True
        elif fault in ("drip", "drop"):
            self._drip(fault == "drip")
        elif fault == "malformed":
            self._send(200, whole[:-5])
        elif fault == "empty":
            self._send(200, json.dumps({"choices": []}))
        elif fault:
            self._send(fault, json.dumps({"error": {"message": "not now"}}))
        else:
            self._send(200, whole)
            with f.lock:
                f.paid[json.dumps(body, sort_keys=True)] += 1

    def _drip(self, of_the_answer):
        """Letters without an end, which comes when the client has left."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        self.wfile.write(b"Content-Length: 1000000\r\n\r\n" if of_the_answer else b"X-Slow: ")
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            while not self.faulty.released.wait(0.05):
                self.wfile.write(b" ")

    def _send(self, status, text):
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if status in (429, 503):
                self.send_header("Retry-After", "0.05")
            self.end_headers()
            self.wfile.write(text.encode())
