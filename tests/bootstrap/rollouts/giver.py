"""One process of several that hand weights over together: python giver.py PORT PROCESSES NUMBER DIRECTORY.

The weights lie over two devices of each process. Prints the handover's name and what weights it knows.
"""

import sys

from etils import epath
from processes import begin

from ratchet.bootstrap.rollouts.handover import Handover, hand_over
from ratchet.models import decoder
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.models.scorer import Scorer
from ratchet.train.sharding import MeshConfig, make_mesh, place, slots_sharding, state_sharding
from ratchet.train.together import Together, connect, current

LAID = MeshConfig(data=1, fsdp=2, tensor=2)
MODEL = DecoderConfig(
    vocab_size=300, width=32, layers=2, heads=4, kv_heads=2, mlp_width=64, max_length=64, conv=1,
    family=Family("LlamaForCausalLM", tied=False, scaled_embedding=False, activation="silu", gated=True),
)  # fmt: skip


def give(mesh, directory: epath.Path, together: Together) -> Handover:
    """Hands over the weights of two generations, the second one twice."""
    for number in (0, 1, 1):
        graphdef, params = decoder.create(MODEL, number)
        params = place(params, state_sharding(mesh, params))
        own = Scorer(graphdef, questions=4, rows=slots_sharding(mesh)), [(5, 6, 7), (8, 9)]
        found = hand_over(directory, "/seen", number, params, MODEL, own, together)
    return found


def main(port: str, processes: int, number: int, directory: str) -> None:
    begin(port, processes, number)
    mesh = make_mesh(LAID)
    connect(mesh)
    found = give(mesh, epath.Path(directory), current())
    print("said", found.folder, *sorted(found.known), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
