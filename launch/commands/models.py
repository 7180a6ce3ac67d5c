"""What reads and writes models: `import` and `export`."""

import json

from etils import epath

from ratchet.launch import folders
from ratchet.launch.commands.measure import prepared
from ratchet.launch.folders import Export, Import
from ratchet.launch.options import UserError, directory_of, parse, saved_config
from ratchet.launch.output import make_console, quiet


def import_folder(words: list[str]) -> int:
    if not words or words[0].startswith("-"):
        raise UserError("import: give the folder of a model: config.json and safetensors")
    asked = parse(Import, words[1:], Import())
    quiet()
    found = folders.read(epath.Path(words[0]), asked.template)
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        make_console().print(folders.table(found))
    return 0


def export(words: list[str]) -> int:
    directory, rest = directory_of(words)
    config, asked = saved_config(directory), parse(Export, rest, None)
    print(folders.write(prepared("export", directory, config, asked.generation), asked))
    return 0
