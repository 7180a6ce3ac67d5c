"""A model behind OpenAI's web API: chat, completions, log-probabilities of given text, and its tokenizer.

served.py    what is served: a generation of a run, or a model that others trained
asked.py     what clients may ask, and how a mistake is told them
desk.py      the one thread that runs the model: requests of all clients, batched
words.py     tokens to text as they come, up to a stop string or where a call of a tool is opened
calls.py     answers that may call tools
answers.py   what is answered, as JSON
streams.py   choices as they come, whole or in parts, until the client has gone
app.py       the routes
listening.py a server in a thread of its own
tasks.py     lm-eval's tasks, put to a served model
"""
