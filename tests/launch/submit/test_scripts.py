"""The scripts for Slurm and TPU VMs and the command for xpk, with programs in place of the platforms' clients."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ratchet.launch.lines import UserError
from ratchet.launch.recipes import RECIPES
from ratchet.launch.submit import slurm, tpu_vm, xpk
from ratchet.launch.submit.slices import FLAT, slice_of
from ratchet.launch.submit.slurm import Slurm
from ratchet.launch.submit.tpu_vm import TpuVm
from ratchet.launch.submit.xpk import Xpk

TINY = RECIPES["tiny"].config
CLOUD = {"out": "gs://bucket/it's $HOME/x", "image": "registry/ratchet:1"}


@pytest.fixture
def clients(tmp_path):
    """Puts programs by name on a PATH of their own; what they are told is kept in `said`, a line each."""
    place = tmp_path / "bin"
    place.mkdir()

    def run(script, **programs):
        for name, does in ({"sleep": "exit 0", "date": "echo 1000"} | programs).items():
            body = f'#!/usr/bin/env bash\necho {name} "$@" >> {tmp_path}/said\nhere={tmp_path}\n{does}\n'
            (place / name).write_text(body)
            (place / name).chmod(0o755)
        environment = {"PATH": f"{place}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "5000"}
        ran = subprocess.run(["bash", "-s"], input=script, text=True, capture_output=True, env=environment)
        return ran.returncode, (tmp_path / "said").read_text().splitlines(), ran.stdout + ran.stderr

    return run


def in_turn(*codes):
    """A program that ends with the codes in turn, and the last one from then on."""
    turns = " ".join(map(str, codes))
    return (
        f'turns=({turns}); n=$(cat $here/turn 2>/dev/null || echo 0); echo $((n + 1)) > $here/turn\n'
        f'exit "${{turns[$((n < {len(codes)} ? n : {len(codes) - 1}))]}}"'
    )


@pytest.mark.parametrize(
    ("codes", "ends", "starts"),
    [
        ((0,), 0, 1),
        ((2,), 2, 1),
        ((1,), 1, 1),
        ((127,), 127, 1),
        ((42, 0), 0, 2),
        ((137, 42, 143, 0), 0, 4),
        ((42, 1), 1, 2),
        ((42,), 42, 4),
    ],
)
def test_a_batch_file_starts_again_what_the_contract_says(clients, codes, ends, starts):
    code, said, _ = clients(slurm.manifest(Slurm(TINY, "slurm", restarts=3)), srun=in_turn(*codes))
    assert (code, sum(line.startswith("srun ") for line in said)) == (ends, starts)


def test_a_batch_file_asks_for_cores_and_memory_where_they_are_given():
    said = slurm.manifest(Slurm(TINY, "slurm", cpus=12, mem="500G"))
    assert "#SBATCH --cpus-per-task=12\n" in said and "#SBATCH --mem=500G\n" in said
    assert "srun --kill-on-bad-exit=0 --wait=120 --cpus-per-task=12 --label" in said, "sbatch does not tell srun"
    usual = slurm.manifest(Slurm(TINY, "slurm"))
    assert "cpus-per" not in usual and "--mem" not in usual


@pytest.mark.parametrize("scontrol", ["exit 1", "echo nothing of the kind"])
def test_where_nobody_says_when_its_time_is_over_a_job_starts_again_so_often_as_is_allowed(clients, scontrol):
    """`date` takes no words at all for today's midnight."""
    script = f"unset SLURM_JOB_END_TIME\n{slurm.manifest(Slurm(TINY, 'slurm', restarts=2))}"
    code, said, _ = clients(script, srun="exit 42", date="echo 1000", scontrol=scontrol)
    assert code == 42 and sum(line.startswith("srun ") for line in said) == 3
    assert not any("requeue" in line for line in said)


def test_a_batch_job_whose_time_is_over_goes_back_into_the_queue(clients):
    late = {"srun": "exit 42", "date": "echo 4900", "scontrol": "exit 0"}
    code, said, _ = clients(slurm.manifest(Slurm(TINY, "slurm")), **late)
    assert code == 0 and said[-1] == "scontrol requeue 7"


def test_a_signal_that_came_a_minute_early_is_known_and_so_is_the_end_by_older_slurms(clients):
    script = slurm.manifest(Slurm(TINY, "slurm"))
    early = {"srun": "exit 42", "date": f"echo {5000 - slurm.NOTICE - 75}", "scontrol": "exit 0"}
    code, said, _ = clients(script, **early)
    assert code == 0 and said[-1] == "scontrol requeue 7"
    shows = 'case "$*" in show*) echo "JobId=7 StartTime=x EndTime=2026-11-29T01:00:00 Deadline=N/A" ;; esac'
    date = 'case "$*" in *2026-11-29T01:00:00*) echo 5000 ;; *) echo 4900 ;; esac'
    code, said, _ = clients(f"unset SLURM_JOB_END_TIME\n{script}", srun="exit 42", date=date, scontrol=shows)
    assert code == 0 and said[-1] == "scontrol requeue 7"
    nothing = {"srun": in_turn(42, 0), "date": "exit 1", "scontrol": "exit 1"}
    assert clients(f"unset SLURM_JOB_END_TIME\n{script}", **nothing)[0] == 0, "where neither says it, nothing is lost"


def test_a_batch_file_asks_for_machines_and_runs_this_installation(clients):
    script = slurm.manifest(Slurm(TINY, "slurm", out="/shared/my runs/x", nodes=4, gpus=2, partition="p", account="a"))
    asked = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    wanted = {"job-name=tiny", "nodes=4", "ntasks-per-node=2", "gpus-per-node=2", "partition=p", "account=a", "requeue"}
    assert wanted < set(asked)
    _, _, out = clients(script, srun='printf "%s\\n" "$@"')
    words = ["-m", "ratchet.launch", "run", "tiny", "--out=/shared/my runs/x", "--join=auto"]
    assert out.splitlines()[-6:] == words and out.splitlines()[-7] == sys.executable
    with pytest.raises(UserError, match="--time '1 day': take one word"):
        Slurm(TINY, "slurm", time="1 day")


@pytest.mark.parametrize("named", ["", "export JAX_COMPILATION_CACHE_DIR=/scratch/xla\n"])
def test_programs_are_kept_with_the_run_or_where_the_user_says(clients, named):
    script = slurm.manifest(Slurm(TINY, "slurm", out="/all see/runs/x"))
    _, _, out = clients(f"unset JAX_COMPILATION_CACHE_DIR\n{named}{script}", srun='echo "$JAX_COMPILATION_CACHE_DIR"')
    assert ("/scratch/xla" if named else "/all see/runs/x/xla") in out.splitlines()


def test_what_does_not_end_in_time_goes_back_into_the_queue(clients):
    """Slurm ends a job whose time is over for good."""
    killed = 'echo timeout > $here/late; [ "$2" = 3955 ] && exit 137; exit 3'
    late = {"timeout": killed, "date": "[ -e $here/late ] && echo 4950 || echo 1000", "scontrol": "exit 0"}
    code, said, _ = clients(slurm.manifest(Slurm(TINY, "slurm")), **late)
    assert code == 0 and said[-1] == "scontrol requeue 7"


@pytest.mark.parametrize("time", ["9", "0:90", "00:04:00", "0-00:09", "9:59"])
def test_a_time_in_which_nothing_could_be_done_is_refused(time):
    with pytest.raises(UserError, match=f"--time {time} is .* seconds; give at least 600"):
        Slurm(TINY, "slurm", time=time)
    for enough in ("0", "0:00", "10", "10:00", "00:10:00", "0-01", "1-00:00:00", "UNLIMITED"):
        Slurm(TINY, "slurm", time=enough)


GCLOUD = """
case "$*" in *ssh*) cat > /dev/null ;; esac  # as ssh does
case "$*" in
  *describe*) [ -e $here/made ] && cat $here/made || exit 1 ;;
  *create*) echo {state} > $here/made ;;
  *delete*) rm $here/made ;;
  *ssh*ratchet-ended-with*) {ended} ;;
  *ssh*systemd-run*) {start} ;;
  *ssh*--follow*) {follow} ;;
esac
"""
ENDS = "echo ratchet-ended-with-exited 0"
LOST = "[ -e $here/lost ] && echo ratchet-ended-with-exited 7 || {{ touch $here/lost; exit {}; }}"


def on_vms(clients, state="ACTIVE", follow="exit 0", ended=ENDS, start="exit 0", **more):
    script = tpu_vm.manifest(TpuVm(TINY, "tpu-vm", **({"zone": "here-1a"} | CLOUD | more)))
    return clients(script, gcloud=GCLOUD.format(state=state, follow=follow, ended=ended, start=start))


def test_tpu_vms_are_created_worked_on_followed_and_deleted(clients, tmp_path):
    code, said, _ = on_vms(clients, slices=2, topology="v6e:4x4", spot=True, project="p", ended=ENDS[:-1] + "1")
    calls = [line for line in said if line.startswith("gcloud") and "describe" not in line]
    created = "--accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e --node-count=2 --node-prefix=tiny --spot"
    assert calls[0] == f"gcloud compute tpus queued-resources create tiny --zone=here-1a --project=p {created}"
    started = sorted(line.split()[4:8] for line in calls[1:3])
    assert started == [["ssh", f"tiny-{n}", "--zone=here-1a", "--project=p"] for n in range(2)]
    assert all("--worker=all" in line and "RestartPreventExitStatus=1 2 126 127" in line for line in calls[1:3])
    assert "ssh tiny-0" in calls[3] and "--worker=0" in calls[3]
    assert "ssh tiny-0" in calls[4] and "--worker=0" in calls[4]
    last = sorted(calls[5:7])
    assert all(f"ssh tiny-{n}" in last[n] and "--worker=all" in last[n] and "--lines=30" in last[n] for n in range(2))
    assert calls[7].startswith("gcloud compute tpus queued-resources delete tiny") and len(calls) == 8
    assert code == 1 and not (tmp_path / "made").exists()


def test_machines_that_are_there_are_used_and_kept_if_asked(clients, tmp_path):
    (tmp_path / "made").write_text("ACTIVE\n")
    code, said, _ = on_vms(clients, keep=True)
    assert code == 0 and not any(word in line for line in said for word in ("create", "delete"))


@pytest.mark.parametrize(("state", "follow"), [("SUSPENDED", ""), ("ACTIVE", "echo SUSPENDED > $here/made; exit 255")])
def test_chips_that_were_taken_back_ask_for_another_start(clients, tmp_path, state, follow):
    code, said, _ = on_vms(clients, state=state, follow=follow, ended="exit 255")
    assert code == 42 and not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("note", "ends"), [("exited 2", 2), ("exited 137", 137), ("killed KILL", 137), ("dumped ABRT", 134)]
)
def test_how_the_first_worker_ended_is_how_the_script_ends(clients, note, ends):
    assert on_vms(clients, ended=f"echo ratchet-ended-with-{note}")[0] == ends


def test_a_worker_that_was_rebooted_and_has_forgotten_its_run_begins_again(clients):
    """Its systemd knows no such unit, and there is no note."""
    forgot = f"[ -e $here/lost ] && {ENDS} || {{ touch $here/lost; exit 0; }}"
    code, said, _ = on_vms(clients, ended=forgot)
    first, second = starts(said)
    assert code == 0 and "test -e" not in first and "|| test -e /run/ratchet-ended ||" in second


def test_the_others_are_looked_after_while_the_first_worker_waits_for_them(clients):
    """One of them was rebooted, and has nothing at work and no note."""
    follow = "n=$(cat $here/n 2> /dev/null || echo 0); echo $((n + 1)) > $here/n"
    ended = f"[ $(cat $here/n) -lt 3 ] || {ENDS}"
    code, said, _ = on_vms(clients, follow=follow, ended=ended)
    assert code == 0 and len(starts(said)) == 3 and all("|| test -e" in line for line in starts(said)[1:])
    follows = [line for line in said if "--follow" in line]
    assert ["--lines=50" in line for line in follows] == [True, False, False], "nothing is shown twice"
    assert all("--since=@1000" in line for line in follows[1:]), "and nothing left out"
    assert all("for turn in $(seq 60)" in line for line in follows), "or nobody would look"


def test_a_worker_that_has_ended_for_good_ends_the_job_of_which_the_first_waits(clients, tmp_path):
    """The others of its slice go on, or were rebooted."""
    ended = 'case "$*" in *worker=all*) echo ratchet-ended-with-exited 42; echo ratchet-ended-with-exited 1 ;; esac'
    code, said, shown = on_vms(clients, ended=ended)
    assert code == 1 and "tiny has ended with exit code 1" in shown and not (tmp_path / "made").exists()


def starts(said):
    """What workers were told to begin."""
    return [line for line in said if "systemd-run" in line]


def test_a_lost_connection_is_taken_up_again(clients):
    code, said, _ = on_vms(clients, follow="exit 255", ended=LOST.format(255))
    assert code == 7 and sum("--follow" in line for line in said) == 2
    assert all("|| test -e /run/ratchet-ended ||" in line for line in starts(said)[1:]), "or it would begin again"


def test_a_client_that_fails_by_itself_is_not_taken_for_the_run(clients):
    """Its login has expired, say: nobody knows anything, and machines at work must not be given back."""
    hidden = "mv $here/made $here/hidden 2> /dev/null; exit 1"
    known = "mv $here/hidden $here/made; echo ratchet-ended-with-exited 7"
    back = f"[ -e $here/lost ] && {{ {known}; }} || {{ touch $here/lost; exit 1; }}"
    code, said, _ = on_vms(clients, follow=hidden, ended=back)
    assert code == 7 and sum("--follow" in line for line in said) == 2
    assert all("|| test -e /run/ratchet-ended ||" in line for line in starts(said)[1:]), "or it would begin again"
    assert sum("delete" in line for line in said) == 1 and "delete" in said[-1]


def test_machines_on_which_nothing_could_be_started_are_named(clients, tmp_path):
    code, said, shown = on_vms(clients, start="exit 1")
    assert code == 1 and (tmp_path / "made").exists() and not any("delete" in line for line in said)
    assert "tiny could not be started on all workers; start this again, or give the machines back with" in shown
    assert "queued-resources delete tiny --zone=here-1a --force" in shown


def test_a_worker_notes_how_its_run_ended(tmp_path):
    """As systemd has a shell do it, which doubles no dollar."""
    script = tpu_vm.manifest(TpuVm(TINY, "tpu-vm", zone="z", **CLOUD))
    (line,) = [line for line in script.splitlines() if line.startswith("start=")]
    (rule,) = [w for w in shlex.split(shlex.split(line)[0].removeprefix("start=")) if "ExecStopPost" in w]
    command = shlex.split(rule.removeprefix("--property=ExecStopPost=").replace("$$", "$"))
    place = f"{tmp_path}/ended"
    command[-1] = command[-1].replace(tpu_vm._NOTE, place)
    subprocess.run(command, env=os.environ | {"EXIT_CODE": "exited", "EXIT_STATUS": "42"}, check=True)
    (line,) = [line for line in script.splitlines() if line.startswith("ended=")]
    (asked,) = shlex.split(line.removeprefix("ended="))
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho inactive\nexit 3\n")
    (tmp_path / "systemctl").chmod(0o755)
    around = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["sh", "-c", asked.replace(tpu_vm._NOTE, place)]
    told = lambda: subprocess.run(words, capture_output=True, text=True, env=around).stdout
    assert told() == "ratchet-ended-with-exited 42\n"
    os.remove(place)
    assert told() == "", "it was rebooted"


def test_a_worker_has_its_container_begin_the_run(tmp_path):
    """Through the shells of this machine and the worker, and systemd."""
    image = "europe-docker.pkg.dev/project/ratchet:1"
    script = tpu_vm.manifest(TpuVm(TINY, "tpu-vm", zone="z", **(CLOUD | {"image": image})))
    (line,) = [line for line in script.splitlines() if line.startswith("start=")]
    (start,) = shlex.split(line.removeprefix("start="))
    show = '#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\n'
    for name, does in {"sudo": show, "systemctl": "#!/bin/sh\nexit 1\n"}.items():
        (tmp_path / name).write_text(does)
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ran = subprocess.run(["sh", "-c", start], capture_output=True, text=True, env=environment)
    words = [word.replace("$$", "$") for word in ran.stdout.splitlines()]  # as systemd does
    assert words[-5:] == ["ratchet", "run", "tiny", "--out=gs://bucket/it's $HOME/x", "--join=auto"]
    assert "systemd-run" in words and "--env=JAX_COMPILATION_CACHE_DIR=gs://bucket/it's $HOME/x/xla" in words
    assert words[:4] == ["gcloud", "auth", "configure-docker", "europe-docker.pkg.dev"]


def test_xpk_gets_one_command_of_options_that_it_has():
    """Those of `xpk/parser/workload.py`, version 1.16."""
    asked = Xpk(TINY, "xpk", cluster="c", topology="v5p:2x2x1", slices=3, zone="z", **CLOUD)
    words = xpk.words(asked)
    options = dict(word.removeprefix("--").split("=", 1) for word in words[3:])
    assert words[:3] == ["xpk", "workload", "create"] and shlex.split(xpk.manifest(asked)) == words
    assert (options["tpu-type"], options["num-slices"], options["max-restarts"]) == ("v5p-8", "3", "8")
    known = "cluster workload tpu-type num-slices docker-image max-restarts termination-grace-period-seconds priority"
    assert set(options) == {*known.split(), "zone", "env", "command"}
    process = shlex.split(options["command"])
    assert process == ["ratchet", "run", "tiny", "--out=gs://bucket/it's $HOME/x", "--join=auto"]


@pytest.mark.parametrize(
    ("kind", "module", "more", "says"),
    [
        (Xpk, xpk, {}, "give --cluster"),
        (Xpk, xpk, {"cluster": "c", "name": "x" * 41}, "it may have 40"),
        (TpuVm, tpu_vm, {}, "give --zone"),
        (TpuVm, tpu_vm, {"zone": "z", "topology": "tpu7x:2x2x1"}, "give --runtime"),
        (TpuVm, tpu_vm, {"zone": "z", "name": "A"}, "take a-z"),
    ],
)
def test_what_a_platform_would_refuse_is_one_line(kind, module, more, says):
    with pytest.raises(UserError, match=says):
        module.manifest(kind(TINY, **(CLOUD | more)))


def test_accelerators_are_called_what_their_maker_calls_them():
    """As xpk's table of systems has them: `core/system_characteristics.py`."""
    names = {"v5e:4x4": "v5litepod-16", "v5e:16x16": "v5litepod-256", "v5p:2x2x1": "v5p-8", "v6e:4x4": "v6e-16"}
    names |= {"v4:2x2x2": "v4-16", "tpu7x:4x4x4": "tpu7x-128", "v5e:2x4": "v5litepod-8"}
    assert {topology: slice_of(topology).accelerator for topology in names} == names
    assert [slice_of(f"v5e:{shape}").hosts for shape in FLAT] == [1, 2, 4, 8, 16, 32, 64]


def test_scripts_are_of_the_package():
    """An installation without them could submit nothing."""
    place = Path(slurm.__file__).parent / "templates"
    assert {p.name for p in place.iterdir()} == {"jobset.yaml.jinja", "slurm.sbatch.jinja", "tpu_vm.sh.jinja"}
