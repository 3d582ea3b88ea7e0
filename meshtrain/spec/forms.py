"""The forms of a job file, as people write them.

Every key is a field here, with its kind and one line on what it is for; the
parser, the JSON Schema and `meshtrain schema --explain` all read these models.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from meshtrain.spec import kinds, training_keys
from meshtrain.spec.inputs import INPUTS, LINES
from meshtrain.spec.jobs import Better
from meshtrain.spec.kinds import Kind
from meshtrain.spec.labels import WANTED
from meshtrain.spec.notify_kinds import OCCASIONS_KIND, WEBHOOK
from meshtrain.spec.problems import shown

PARTICIPANTS_MAX = 10_000
REFERENCES = tuple(str(mode) for mode in training_keys.REFERENCE_GROUPS)


def _check_data(value: Any) -> str:
    if value == "digits":
        return ""
    if isinstance(value, dict) and set(value) == {"folder"}:
        return str(kinds.ABSOLUTE_PATH.check(value["folder"]))
    raise ValueError(f"{shown(value)} is no data source: write digits, or {{folder: /abs/path}}")


DATA = Kind(
    "digits, or {folder: /abs/path}",
    _check_data,
    {
        "anyOf": [
            {"const": "digits"},
            {
                "type": "object",
                "properties": {"folder": {"type": "string", "pattern": "^/"}},
                "required": ["folder"],
                "additionalProperties": False,
            },
        ]
    },
)
MODEL = kinds.choice("", training_keys.MODELS)
AUGMENTATION = kinds.choice("", training_keys.AUGMENTATIONS)
OPTIMIZER = kinds.choice("", training_keys.OPTIMIZERS)
_WRITABLE_MODE = kinds.choice("", training_keys.WRITABLE_MODES)


def _check_mode(value: Any) -> Any:
    if value == training_keys.Mode.BASE_ALONE:
        raise ValueError(f"{shown(value)} trains nothing: write references: [base_alone]")
    return _WRITABLE_MODE.check(value)


MODE = Kind(_WRITABLE_MODE.words, _check_mode, _WRITABLE_MODE.schema)
REFERENCE = kinds.choice("", REFERENCES)
_DIRECTION = kinds.choice("", tuple(Better))
BETTER = Kind(_DIRECTION.words, lambda value: Better(_DIRECTION.check(value)), _DIRECTION.schema)
LR = kinds.number("number, above 0", 0, 1000, above=True)
WEIGHT_DECAY = kinds.number("number, 0 or more", 0, 1000)
SEED = kinds.whole("whole number, 0 or more", 0, kinds.SEED_MAX)
FOLD = kinds.whole("whole number, 0 or more", 0, 99)
FOLDS = kinds.whole("whole number, 2 to 100", 2, 100)
EPOCHS = kinds.whole("whole number, 1 or more", 1, 1_000_000)
BATCH_SIZE = kinds.whole("whole number, 1 or more", 1, 1_000_000)
PRIORITY = kinds.whole("whole number, -1000 to 1000", -1000, 1000)
RETRIES = kinds.whole("whole number, 0 to 100", 0, 100)
NONE_OR_MORE = kinds.whole("whole number, 0 or more", 0, 65_536)
ONE_OR_MORE = kinds.whole("whole number, 1 or more", 1, 65_536)
AMOUNT = kinds.number("number, above 0", 0, 1_000_000_000, above=True)

Text = Annotated[str | None, kinds.FILLED_TEXT]
Params = dict[Annotated[str, kinds.VARIABLE], Annotated[Any, kinds.SCALAR]]


class Section(BaseModel):
    """A section whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ResourcesSection(Section):
    """What one job needs on its node."""

    gpus: Annotated[int | None, NONE_OR_MORE] = Field(
        None, description="Whole GPUs. Not given: one where the node has GPUs, else none."
    )
    gpu_memory: Annotated[int | None, kinds.SIZE] = Field(
        None, description="Memory that each GPU must have free."
    )
    cpus: Annotated[int, ONE_OR_MORE] = Field(
        1, description="CPU slots; counted only where the job takes no GPU."
    )
    memory: Annotated[int | None, kinds.SIZE] = Field(None, description="Main memory.")
    nodes: Annotated[int, ONE_OR_MORE] = Field(1, description="How many nodes one job spans.")
    labels: Annotated[tuple[tuple[str, str], ...], WANTED] = Field(
        (), description="Labels that its node must have, as set in the worker's settings."
    )


class BaseRunKeys(Section):
    """Keys of a base that say where and how it runs; they are not part of the recipe."""

    resources: ResourcesSection | None = Field(
        None, description="What the base needs; not given: as the jobs. Not hashed."
    )
    timeout: Annotated[float | None, kinds.DURATION] = Field(
        None, description="Ends an attempt of the base after this long. Not hashed."
    )
    checkpoint_every: Annotated[float | None, kinds.DURATION] = Field(
        None,
        description="How often a checkpoint of the base is kept; not given: as for the jobs. "
        "Not hashed.",
    )


class TrainingBase(BaseRunKeys):
    """The base model of a built-in training: all but three of its keys are the recipe."""

    from_: Annotated[str | None, kinds.BASE_REFERENCE] = Field(
        None, alias="from", description="The base that this one continues from; of the same model."
    )
    participants: list[Annotated[str, kinds.NAME]] | None = Field(
        None,
        max_length=PARTICIPANTS_MAX,
        description="Whose data the base is trained on; a set, so order doesn't matter.",
    )
    model: Annotated[str | None, MODEL] = Field(None, description="The network.")
    batch_size: Annotated[int | None, BATCH_SIZE] = Field(None, description="Samples a batch.")
    lr: Annotated[float | None, LR] = Field(None, description="Learning rate.")
    augmentation: Annotated[str | None, AUGMENTATION] = Field(
        None, description="How training images are varied."
    )
    epochs: Annotated[int | None, EPOCHS] = Field(None, description="Passes over the data.")
    seed: Annotated[int | None, SEED] = Field(None, description="Random seed.")
    optimizer: Annotated[str | None, OPTIMIZER] = Field(None, description="The optimiser.")
    weight_decay: Annotated[float | None, WEIGHT_DECAY] = Field(
        None, description="Weight decay of the optimiser."
    )
    data: Annotated[str | None, DATA] = Field(
        None, description="Same as data at the top; write it in one of the two places."
    )


class TargetSection(Section):
    """The runs that are wanted: one person's model."""

    mode: Annotated[str | None, MODE] = Field(None, description="What each run does.")
    participant: Annotated[str | None, kinds.NAME] = Field(
        None, description="Whose model is wanted; never one of the base's participants."
    )
    target_batch_pct: Annotated[float | None, kinds.SHARE] = Field(
        None, description="Share of target samples in each batch (full_fine_tuning)."
    )
    target_data_pct: Annotated[float | None, kinds.SHARE] = Field(
        None, description="Share of the target's training data that is used."
    )
    fold: Annotated[int | None, FOLD] = Field(
        None, description="Which split of the target's data is held out, from 0."
    )
    folds: Annotated[int | None, FOLDS] = Field(None, description="How many splits there are.")
    model: Annotated[str | None, MODEL] = Field(
        None, description="The network; only for target_only, else it is the base's."
    )
    batch_size: Annotated[int | None, BATCH_SIZE] = Field(
        None, description="Samples a batch; not given: the base's."
    )
    lr: Annotated[float | None, LR] = Field(
        None, description="Learning rate; not given: the base's."
    )
    augmentation: Annotated[str | None, AUGMENTATION] = Field(
        None, description="How training images are varied; not given: as for the base."
    )
    epochs: Annotated[int | None, EPOCHS] = Field(None, description="Passes over the data.")
    seed: Annotated[int | None, SEED] = Field(None, description="Random seed.")
    optimizer: Annotated[str | None, OPTIMIZER] = Field(
        None, description="The optimiser; not given: the base's."
    )
    weight_decay: Annotated[float | None, WEIGHT_DECAY] = Field(
        None, description="Weight decay of the optimiser; not given: the base's."
    )


class CommandBase(BaseRunKeys):
    """A base made by a command of your own: its command, params, env and code are the recipe."""

    from_: Annotated[str | None, kinds.BASE_REFERENCE] = Field(
        None,
        alias="from",
        description="The base that this one continues from; {from} is its folder on the node.",
    )
    command: Text = Field(
        None, description="Shell line that makes the base; its result goes to {output}."
    )
    code: list[Annotated[str, kinds.RELATIVE_PATH]] | None = Field(
        None,
        max_length=1000,
        description="Files and folders whose change makes the base anew; not given: all of code.",
    )
    params: Params = Field(
        default_factory=dict, description="Named values for {placeholders} of the base's command."
    )
    env: Params = Field(default_factory=dict, description="Environment of the base's command.")
    inputs: Annotated[tuple[str, ...], kinds.NAMES] = Field(
        (), description="Which of the sweep's inputs the base reads; their digests are hashed."
    )
    prepare: Annotated[str | None, LINES] = Field(
        None,
        description="Shell lines that fill {prepared} for the base's command, once a node. Hashed.",
    )


class NotifySection(Section):
    """Who is told how the sweep goes: a command, a webhook, or both."""

    on: Annotated[tuple[str, ...], OCCASIONS_KIND] = Field(
        ("end",),
        description="When: end (all jobs have ended), failure (they have, and some failed), "
        "first_failure. [] tells nobody, whatever the master's settings say.",
    )
    command: Annotated[str | None, kinds.NAME] = Field(
        None, description="Name of a command of the master's settings (notify_commands)."
    )
    webhook: Annotated[str | None, WEBHOOK] = Field(
        None, description="URL that gets a POST with JSON; to the outside by https alone."
    )
    secret: Annotated[str | None, kinds.NAME] = Field(
        None,
        description="File below HOME/notify on the master's host whose content signs the POST.",
    )


class ResultsSection(Section):
    """How the results of a sweep are merged."""

    metric: Annotated[str | None, kinds.FILLED_TEXT] = Field(
        None, description="The metric shown; not given: the first one found."
    )
    over: Annotated[tuple[str, ...], kinds.NAMES] = Field(
        (), description="Axes to take mean and spread over (folds, seeds)."
    )
    file: Annotated[str | None, kinds.RELATIVE_PATH] = Field(
        None, description="File below {output} that holds the metrics; else metrics.json."
    )
    better: Annotated[Better | None, BETTER] = Field(
        None, description="Which way the metric is better; not given: what its name says."
    )


class BudgetSection(Section):
    """What a sweep may use; when one of these is spent, nothing more of it is started."""

    gpu_hours: Annotated[float | None, AMOUNT] = Field(
        None, description="Hours that GPUs may be held, summed over GPUs."
    )
    money: Annotated[float | None, AMOUNT] = Field(
        None, description="What they may cost, by price_per_gpu_hour of the nodes or the master."
    )


class SweepKeys(Section):
    """Keys that both forms of a sweep have."""

    name: Annotated[str | None, kinds.NAME] = Field(
        None, description="Name of the sweep; not given: the file's name."
    )
    matrix: Any = Field(
        None,
        description="Axis: list of values, or {range: [start, stop, step]} with stop left out. "
        "exclude and include hold lists of cells.",
    )
    resources: ResourcesSection | None = Field(None, description="What each job needs.")
    results: ResultsSection | None = Field(None, description="How results are merged.")
    budget: BudgetSection | None = Field(
        None, description="What the sweep may use; not given: no limit."
    )
    retries: Annotated[int, RETRIES] = Field(
        2, description="Reruns after a failure that may pass (out of memory)."
    )
    timeout: Annotated[float | None, kinds.DURATION] = Field(
        None, description="Ends an attempt of a job after this long."
    )
    checkpoint_every: Annotated[float | None, kinds.DURATION] = Field(
        None,
        description="How often a checkpoint is kept, so that a job whose node is lost goes on "
        "from it; not given: built-in training 5m, a command never.",
    )
    user: Annotated[str | None, kinds.ACCOUNT] = Field(
        None,
        description="Account on the nodes that jobs and bases run as; not given: the daemon's.",
    )
    notify: NotifySection | None = Field(
        None, description="Who is told; not given: as the master's settings say."
    )
    priority: Annotated[int, PRIORITY] = Field(0, description="Higher runs sooner.")
    affinity: Annotated[tuple[str, ...], kinds.NAMES] = Field(
        (),
        description="Axes: jobs that are equal on them run on the same node where that costs "
        "no waiting.",
    )


class TrainingSweep(SweepKeys):
    """Built-in training: a base model, and runs for one target that start from it."""

    base: TrainingBase | None = Field(None, description="The base model, trained once.")
    target: TargetSection | None = Field(
        None, description="The runs that are wanted; without it only bases are trained."
    )
    data: Annotated[str | None, DATA] = Field(
        None, description="Where participants' data lies: digits, or one .npz per participant."
    )
    references: list[Annotated[str, REFERENCE]] = Field(
        default_factory=list,
        max_length=len(REFERENCES),
        description="Runs to compare with, once per point of the results.over axes.",
    )


class CommandSweep(SweepKeys):
    """Any program: a command, once per cell of the matrix."""

    command: Text = Field(
        None,
        description="Shell line; {axis} is filled in, so are {output}, {base}, {code}, "
        "{prepared} and {inputs.NAME}.",
    )
    code: Annotated[str | None, kinds.FILLED_TEXT] = Field(
        None, description="Folder whose snapshot travels with the jobs."
    )
    base: CommandBase | None = Field(None, description="A command whose output jobs start from.")
    params: Params = Field(
        default_factory=dict, description="Named values for {placeholders} of the command."
    )
    env: Params = Field(default_factory=dict, description="Environment of the command.")
    inputs: Annotated[dict[str, str], INPUTS] = Field(
        default_factory=dict,
        description="Data that jobs read, each a folder: {inputs.NAME}. Names are of "
        "`meshtrain publish`; a path on a share is used in place.",
    )
    prepare: Annotated[str | None, LINES] = Field(
        None,
        description="Shell lines that fill {prepared} from code and inputs, once a node; kept "
        "there for all jobs of the same lines, code and inputs.",
    )


class FlatJob(Section):
    """One entry of a flat list: one run of the built-in training."""

    mode: Annotated[str | None, MODE] = Field(None, description="What the run does.")
    participants: list[Annotated[str, kinds.NAME]] | None = Field(
        None, max_length=PARTICIPANTS_MAX, description="Whose data the base is trained on."
    )
    target_participant: Annotated[str | None, kinds.NAME] = Field(
        None, description="Whose model is wanted."
    )
    model: Annotated[str | None, MODEL] = Field(None, description="The network.")
    batch_size: Annotated[int | None, BATCH_SIZE] = Field(None, description="Samples a batch.")
    lr: Annotated[float | None, LR] = Field(None, description="Learning rate.")
    augmentation: Annotated[str | None, AUGMENTATION] = Field(
        None, description="How training images are varied."
    )
    fold: Annotated[int | None, FOLD] = Field(None, description="Which split is held out.")
    target_batch_pct: Annotated[float | None, kinds.SHARE] = Field(
        None, description="Share of target samples in each batch."
    )
    target_data_pct: Annotated[float | None, kinds.SHARE] = Field(
        None, description="Share of the target's training data that is used."
    )
    prefix: Annotated[str | None, kinds.NAME] = Field(
        None, description="Put before the names of the run's files."
    )
    device: Annotated[str | None, kinds.DEVICE] = Field(
        None, description="Sets CUDA_VISIBLE_DEVICES; normally the mesh chooses."
    )
