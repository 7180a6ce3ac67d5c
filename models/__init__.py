"""What a model is.

The decoder
  decoder.py        one decoder-only transformer
  layer.py          what a layer does to tokens, but for what attends
  family.py         what a family of decoders has that others have not
  attention.py      rotary positions and masked attention, by matrix products
  kernels.py        attention by a device's own kernel, chosen where it is compiled
  cudnn.py          what the kernel of GPUs is told
  rows.py           rows of tokens that a folder names and its model was not trained with
  products.py       products of a layer's input with its matrices
  bounds.py         what a config's numbers may be, said beside each

Text to ids and back
  tokenizer.py      SentencePiece with control symbols, for models from scratch: messages in, ids out
  chat.py           a folder's tokenizer and chat template: messages in, ids out
  wording.py        what a model of a folder is told beside the messages
  settings.py       what a folder says of its chat: templates by name, special tokens, the day
  added.py          tokens that other files add to tokenizer.json
  spacing.py        how transformers' classes of tokenizers cut words
  template.py       chat templates (Jinja), rendered as transformers renders them
  turns.py          where the assistant speaks in what a template without marks of its own writes
  vocabulary.py     tokenizer.json: text to ids and back, symbols by id alone
  grammar.py        what a request may say, and masks of it between steps

Models that others trained
  pretrained.py     what is asked for by a path or a name
  extras.py         the pip commands that install optional libraries
  architectures.py  config.json of Hugging Face folders
  huggingface.py    their weights, read onto the mesh and written
  peft.py           what was trained of them, apart, as PEFT takes it
  gguf.py           GGUF files: sizes, weights in full precision, chat
  gguf_vocabulary.py  their tokenizers, as tokenizer.json says the same
  tensors.py        weights of files onto the mesh, tensor by tensor

Sampling and scoring
  sampler.py        samples any number of requests: what is read and seated when
  rounds.py         requests that join while others are sampled, each with its own seed, warp and length
  beginnings.py     prompts that begin alike, whose beginnings are read once
  slots.py          what that runs on the device: slots that are refilled, distributions captured
  draw.py           from logits to a token and what is kept of its distribution
  pages.py          keys and values in pages, for the kernel that TPUs decode with
  triton.py         a kernel that GPUs can decode with, which reads a prompt that slots share once
  readings.py       texts that go on after others, read by one layer after the other
  scorer.py         questions answered by the next token's probabilities, and what given tokens are drawn from
  programs.py       how programs are compiled: fast, or the same from run to run
  inference.py      weights and rows of a model that is only read, on a mesh

README.md holds the families, what was measured of the sampler, and how.
"""
