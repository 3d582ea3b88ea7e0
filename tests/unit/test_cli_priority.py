"""`meshtrain priority`."""

from __future__ import annotations

import json

from cli_double import out, run
from master_double import MasterDouble, small_sweep


def test_jobs_and_sweeps_are_given_a_priority() -> None:
    master = MasterDouble()
    sweep = small_sweep()
    master.submit(sweep)
    assert out(master, "priority", "7", "mix/fold=1") == "2 jobs with priority 7\n"
    of_fold = [job.job_id for job in sweep.jobs if job.name.endswith("fold=1")]
    assert all(master.state.jobs[job_id].priority == 7 for job_id in of_fold)
    done = json.loads(out(master, "priority", "--json", "--", "-5", "mix"))
    assert (done["priority"], len(done["changed"])) == (-5, 4)
    out(master, "cancel", "mix")
    assert "all of it has ended" in out(master, "priority", "1", "mix")


def test_a_name_that_names_nothing() -> None:
    result = run(MasterDouble(), "priority", "1", "nope")
    assert result.exit_code == 2
    assert 'is called "nope"' in result.stderr
