"""The embedded lessons world: three generations on stories of unwise deeds.

ratchet run lessons --out runs/lessons
"""

from ratchet.bootstrap.config import Config, ControlsConfig, ReviewConfig, SimulateConfig, TrainConfig, WrongthinkConfig
from ratchet.bootstrap.worlds import LessonsConfig
from ratchet.launch.recipes.recipe import Recipe
from ratchet.models.decoder import DecoderConfig
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.trainer import EngineConfig

MODEL = DecoderConfig(vocab_size=1024, width=96, layers=3, heads=2, kv_heads=2, mlp_width=256, max_length=192, conv=6)
SIMULATE = SimulateConfig(samples=16, passage_words=60, withhold=0.2, new_tokens=48, keep=8)

RECIPE = Recipe(
    summary="Learn lessons from stories of unwise deeds without imitating them: three generations, small decoder.",
    takes="a quarter to half an hour on two CPU cores",
    reaches="knowledge 100 %, harm 0.4 to 0.9 %, recovery 92 to 96 %, pass rate on unread texts 92 to 95 % (3 seeds)",
    config=Config(
        recipe="lessons",
        world="lessons",
        lessons=LessonsConfig(held_out=120),
        model=MODEL,
        simulate=SIMULATE,
        review=ReviewConfig(practice=60),
        wrongthink=WrongthinkConfig(sources=("contrast", "spoiled"), interruption="no,", share=0.5),
        train=TrainConfig(
            seed_steps=550,
            steps=360,
            columns=176,
            renamed=4,
            engine=EngineConfig(save_minutes=1.0),
            optimizer=OptimizerConfig("muon", 3e-2, average=0.1),
        ),
        controls=ControlsConfig(imitation=True),
    ),
)
