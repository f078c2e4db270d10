"""PromptAgent: planning over prompts by Monte Carlo tree search.

Wang et al.: "PromptAgent: Strategic Planning with Language Models Enables Expert-level Prompt Optimization",
ICLR 2024, arXiv 2310.16427, algorithm 1. A state is a prompt, an action is a model's feedback on the prompt's
answers to a mini-batch of train, a transition is the rewriting that follows it, and the reward of a state is its
mean score on a sample of dev. Greedy and beam search are the paper's ablations.

A node takes n_eval + batch_size + 2 calls. Nodes are added until a tenth of the budget is left for the final
choice. The paper's settings want 2,600 calls with 50 dev examples.

Deviations, each with its option (`preset=paper` takes the published values):
- Rewards are means over a sample of dev, and there is no fixed number of iterations.
- A return is the mean of the rewards from a node on, not their sum, which grows with the path below the node.
- The top nodes and the initial prompt meet on more of dev at the end; published is the best node of the best path.
- Prompts get random demonstrations from train. A mini-batch leaves out what the prompt already shows.
Further ones, also of `preset=paper`:
- Selection passes by subtrees in which nothing can be expanded; where nothing is left, the search ends.
- A reply without tags is asked for once more; prompts that the gate refuses or the tree holds are dropped. A node
  that gets no child is never expanded again (the published program does so, and then counts it twice).
- Each new prompt is a reply of its own. Train and dev are disjoint (in the published example they overlap).
- A score below 1 counts as wrong. What the optimizer model is asked has one frame for wrong and right answers.

Why these defaults: docs/benchmarks.md (simulator, 1,000 calls, 42 pairs). Without demonstrations the score falls
by .051 (.017 to .085), with strict UCT, which spends on siblings first, by .016 (.001 to .032); 32 dev examples
instead of 16, and sums as returns, made no clear difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from types import MappingProxyType
from typing import ClassVar, Literal

from promptopt.demonstration import demonstrate, not_shown, plain_output
from promptopt.errors import ConfigError
from promptopt.option import check_range
from promptopt.study import Study
from promptopt.template import render_demo, substitute
from promptopt.types import Candidate, Demo, Example, Role, ScoreTable

SITUATION = """You are improving a prompt for a language model.
Task: {description}

The current prompt:
<prompt>
{instruction}
</prompt>

With this prompt, the model got these examples {verdict}:

{examples}"""

FEEDBACK = """{situation}

Take the examples one by one, and explain step by step {question} The prompt itself is rewritten later."""

REWRITE = """{situation}

What an analysis of these examples found:
<feedback>
{feedback}
</feedback>

The current prompt is the last of these versions, each of which was made from the one before:
{lineage}

Write a new prompt that {aim} and goes on improving where these versions stopped; it must differ from all of them.
{demands}
Put the new prompt between <prompt> and </prompt>."""

_SMALLEST_SAMPLE = 16  # dev examples of a reward
_USUAL_DEV = 50  # the published example's; for forecasts, where all of dev is wanted and its size is not known
_FINAL_SHARE = 0.1  # of the calls that are kept for the final choice


@dataclass(frozen=True)
class Mode:
    """What is asked about a mini-batch: of wrong answers how to mend them, of right ones how to be surer."""

    name: str
    verdict: str
    question: str
    aim: str


FIX = Mode(
    "fix",
    "wrong",
    "why the prompt failed there: what it says wrongly, leaves open or leaves out. Look for a different reason "
    "each time. Then sum up, as a list, every aspect of the prompt that has to change.",
    "solves the problems found",
)
STRENGTHEN = Mode(
    "strengthen",
    "right",
    "why the prompt worked there. Then sum up, as a list, on which harder inputs it could still fail, and which "
    "aspects of the prompt have to be stronger.",
    "keeps what works, is stronger where the analysis asks for it",
)


@dataclass(eq=False)
class Node:
    """A prompt in the tree.

    Args:
        candidate: the prompt.
        parent: the node whose prompt was rewritten; None = the root.
        feedback: what the optimizer model found in the parent's answers: the action that led here.
        reward: mean score on the evaluation sample, in [0, 1]; NaN = not yet evaluated.
        children: in order of birth.
        returns: what each iteration through this node brought from here on.
        is_failed: its expansion brought no new prompt; it is not tried again.
    """

    candidate: Candidate
    parent: Node | None = None
    feedback: str = ""
    reward: float = math.nan
    children: list[Node] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    is_failed: bool = False

    @property
    def lineage(self) -> list[Node]:
        """The nodes from the root to this one."""
        return [*(self.parent.lineage if self.parent else ()), self]

    @property
    def depth(self) -> int:
        """Rewritings since the root."""
        return self.parent.depth + 1 if self.parent else 0


@dataclass
class Tree:
    """What one search knows.

    Args:
        study: the root of the run.
        root: the initial prompt's node.
        width: transitions of an expansion.
        dev: all of dev in a random order; rewards are means over the first `n_eval`.
        n_eval: examples of the evaluation sample.
        batches: mini-batches of train, without end.
        best_reward: best on the simulated paths; what is above it ends a simulation.
        nodes: all evaluated nodes, in order of birth.
        paths: the path of each iteration.
    """

    study: Study
    root: Node
    width: int
    dev: Sequence[Example]
    n_eval: int
    batches: Iterator[list[Example]]
    best_reward: float = 0.0
    nodes: list[Node] = field(default_factory=list)
    paths: list[list[Node]] = field(default_factory=list)


@dataclass(frozen=True)
class PromptAgent:
    """Tree search that rewrites prompts from feedback on their errors (PromptAgent, arXiv 2310.16427).

    Args:
        search: mcts = Monte Carlo tree search; beam, or greedy = a beam of one: each round expands the best of
            the newest nodes.
        n_iterations: iterations of the tree search (paper: 12); None = until the budget ends.
        expand_width: mini-batches, and hence transitions, of an expansion (paper: 3); None = 2 in searches of
            fewer than 500 calls, else 3.
        beam_width: nodes that a beam search expands each round (paper: 3).
        depth_limit: deepest level (paper: 8); None = 8 for mcts, until the budget ends for greedy and beam.
        min_depth: level up to which neither a low nor a high reward stops anything (paper: 2).
        batch_size: train examples of a mini-batch (paper: 5).
        n_new_prompts: prompts written from one feedback (paper: 1, or 2 in its wide setting).
        n_eval: dev examples that a reward is the mean over (paper: all); None = scaled to the budget.
        uct: strict = the paper's formula, by which each child is visited before any is visited again;
            paper = the published program's, in which an unvisited child counts with its own reward.
        q: what a return is: sum (paper) of the rewards to the path's end, which favours nodes with much below
            them, or their mean.
        exploration: weight of the visit counts against q (paper: 2.5); None = 2.5 for sums, 0.1 for means.
        output: choose = the best of the top nodes and the initial prompt, compared on more of dev; path = the best
            node of the path with the highest mean reward (paper).
        n_finalists: top nodes that are compared at the end.
        max_shots: most demonstrations of a prompt, drawn anew from train for each; 0 = none are added (paper).
    """

    search: Literal["mcts", "greedy", "beam"] = "mcts"
    n_iterations: int | None = None
    expand_width: int | None = None
    beam_width: int = 3
    depth_limit: int | None = None
    min_depth: int = 2
    batch_size: int = 5
    n_new_prompts: int = 1
    n_eval: int | None = None
    uct: Literal["strict", "paper"] = "paper"
    q: Literal["sum", "mean"] = "mean"
    exploration: float | None = None
    output: Literal["choose", "path"] = "choose"
    n_finalists: int = 3
    max_shots: int = 5

    source: ClassVar[str] = "Wang et al. 2024, arXiv 2310.16427"
    requires: ClassVar[frozenset[str]] = frozenset({"labels", "optimizer model"})
    usual_calls: ClassVar[str] = "from 100; 2,000 to 7,000 at the paper's settings"
    when: ClassVar[str] = "labels at hand; errors tell what the prompt lacks; a strong optimizer model"
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = MappingProxyType(
        {
            "paper": MappingProxyType(
                {
                    **{"n_iterations": 12, "expand_width": 3, "depth_limit": 8, "min_depth": 2, "batch_size": 5},
                    **{"n_new_prompts": 1, "n_eval": 10**9, "uct": "paper", "q": "sum", "exploration": 2.5},
                    **{"output": "path", "max_shots": 0},
                }
            )
        }
    )

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        sizes = ("n_iterations", "expand_width", "beam_width", "depth_limit", "batch_size", "n_new_prompts")
        check_range(self, *sizes, "n_eval", "n_finalists", at_least=1)
        check_range(self, "min_depth", "exploration", "max_shots", at_least=0)

    def minimum_calls(self) -> int:
        """Return the answers below which a search makes no sense: the root and one expansion."""
        width, n_eval = self._sizes(1)
        return n_eval + self._expansion_calls(width, n_eval)

    def forecast(self, n_calls: int) -> Mapping[Role, int]:
        """Return the expected answers by role for a search of `n_calls`."""
        _, n_eval = self._sizes(n_calls)
        n_transitions = n_calls // (1 + self.batch_size + self.n_new_prompts * (1 + n_eval))
        n_written = n_transitions * (1 + self.n_new_prompts)
        return {"optimizer": n_written, "task": n_calls - n_written}

    async def optimize(self, study: Study) -> Candidate:
        """Grow a tree of prompts from the initial one; return the best of it."""
        tree = await self._plant(study)
        if self.search == "mcts":
            await self._mcts(tree)
        else:
            await self._beam(tree)
        return await self._output(tree)

    # The searches -----------------------------------------------------------------------------------

    async def _mcts(self, tree: Tree) -> None:
        """Iterate selection, expansion, simulation and backup."""
        while self._goes_on(tree):
            path = self._select(tree)
            await self._simulate(tree, path)
            self._back_up(path)
            self._finish(tree, path)

    async def _beam(self, tree: Tree) -> None:
        """Expand the best nodes of each level, until there is no deeper one."""
        width = self.beam_width if self.search == "beam" else 1
        beam = [tree.root]
        while beam and beam[0].depth < self._depth_limit and self._affords(tree, len(beam)):
            children = await self._expand(tree, beam)
            beam = sorted(children, key=lambda node: -node.reward)[:width]
            for node in beam:
                self._finish(tree, node.lineage)

    def _goes_on(self, tree: Tree) -> bool:
        is_within = self.n_iterations is None or len(tree.paths) < self.n_iterations
        return is_within and self._is_open(tree, tree.root) and self._affords(tree)

    def _select(self, tree: Tree) -> list[Node]:
        """Return the path from the root along the greatest UCT to a node without children."""
        path = [tree.root]
        while path[-1].children:
            open_children = (child for child in path[-1].children if self._is_open(tree, child))
            path.append(max(open_children, key=self._uct))
        return path

    def _uct(self, node: Node) -> float:
        """Return how promising it is to go on at `node`."""
        assert node.parent is not None
        n, n_parent = len(node.returns), len(node.parent.returns)
        if n == 0 and self.uct == "strict":
            return math.inf
        q = fmean(node.returns) if n else node.reward
        weight = self.exploration if self.exploration is not None else {"sum": 2.5, "mean": 0.1}[self.q]
        return q + weight * math.sqrt(math.log(n_parent + (self.uct == "paper")) / max(1, n))

    async def _simulate(self, tree: Tree, path: list[Node]) -> None:
        """Lengthen a path by the best new child, level by level, until a node is the best so far or terminal."""
        while True:
            node = path[-1]
            is_best = node.depth > self.min_depth and node.reward > tree.best_reward
            tree.best_reward = max(tree.best_reward, node.reward)
            if is_best or self._is_terminal(tree, node) or not self._affords(tree):
                return
            children = await self._expand(tree, [node])
            if not children:
                return
            path.append(max(children, key=lambda child: child.reward))

    def _back_up(self, path: Sequence[Node]) -> None:
        """Give every node of a path its return: what the rewards from there to the end come to."""
        for i, node in enumerate(path):
            rewards = [later.reward for later in path[i:]]
            node.returns.append(sum(rewards) if self.q == "sum" else fmean(rewards))

    def _is_terminal(self, tree: Tree, node: Node) -> bool:
        """Return whether `node` is never expanded: too deep, too bad, or tried in vain."""
        if node.is_failed or node.depth >= self._depth_limit:
            return True
        if node.parent is None or node.depth <= self.min_depth:
            return False
        return node.reward < (tree.root.reward + node.parent.reward) / 2

    def _is_open(self, tree: Tree, node: Node) -> bool:
        """Return whether anything can still be expanded at or below `node`."""
        if self._is_terminal(tree, node):
            return False
        return not node.children or any(self._is_open(tree, child) for child in node.children)

    # Growing the tree ---------------------------------------------------------------------------------

    async def _plant(self, study: Study) -> Tree:
        """Return a tree of the initial prompt alone."""
        dev = [study.task.dev[i] for i in study.rng.permutation(len(study.task.dev))]
        width, n_eval = self._sizes(study.size.n_calls, len(dev))
        n_least = n_eval + self._expansion_calls(width, n_eval)
        if study.remaining_calls < n_least:
            raise ConfigError(
                f"{study.remaining_calls} calls are left; the initial prompt and one expansion take up to "
                f"{n_least} with n_eval={n_eval}: raise the budget, or lower n_eval or expand_width"
            )
        tree = Tree(study, Node(study.initial), width, dev, n_eval, _batches(study, self.batch_size))
        study.propose(study.initial)
        await self._add(tree, [tree.root])
        return tree

    async def _expand(self, tree: Tree, nodes: Sequence[Node]) -> list[Node]:
        """Return the new children of `nodes`, evaluated; a node that gets none has failed."""
        jobs = [(node, next(tree.batches)) for node in nodes for _ in range(tree.width)]
        drafts = [draft for drafts in await tree.study.map(self._transit, jobs) for draft in drafts]
        known = {node.candidate.id for node in tree.nodes}
        children = list(
            {draft.candidate.id: draft for draft in drafts if draft.candidate.id not in known}.values()
        )
        await self._add(tree, children)
        for node in nodes:
            node.is_failed = not node.children
        return children

    async def _add(self, tree: Tree, nodes: Sequence[Node]) -> None:
        """Evaluate new nodes on the sample and put them into the tree and the journal."""
        table = await tree.study.evaluate([node.candidate for node in nodes], tree.dev[: tree.n_eval])
        for node, reward in zip(nodes, table.means(), strict=True):
            node.reward = reward
            tree.nodes.append(node)
            if node.parent is not None:
                node.parent.children.append(node)
            tree.study.note(
                "node",
                candidate=node.candidate.id,
                parent=node.parent.candidate.id if node.parent else None,
                depth=node.depth,
                reward=reward,
                feedback=node.feedback,
            )
        tree.study.propose(_best(tree.nodes).candidate)

    async def _transit(self, study: Study, job: tuple[Node, Sequence[Example]]) -> list[Node]:
        """Return the nodes that a mini-batch leads to: evaluate it, get feedback, rewrite the prompt."""
        node, batch = job
        unseen = not_shown(study.task, batch, node.candidate.prompt.demos)
        table = await study.evaluate([node.candidate], unseen)
        wrong = [i for i, value in enumerate(table.values[0]) if value < 1]
        right = [i for i, value in enumerate(table.values[0]) if value >= 1]
        if not (wrong or right):
            return []
        mode = FIX if wrong else STRENGTHEN
        situation = substitute(SITUATION, _situation(study, node, mode, table, wrong or right))
        feedback = await study.generate(FEEDBACK, situation=situation, question=mode.question)
        return await self._rewrite(study, node, mode, situation, feedback[0]) if feedback else []

    async def _rewrite(self, study: Study, node: Node, mode: Mode, situation: str, feedback: str) -> list[Node]:
        """Return the children that the optimizer model writes after its feedback."""

        async def rewrite(branch: Study, _: int) -> Node | None:
            text = await branch.write(
                *(REWRITE, "prompt"),
                situation=situation,
                feedback=feedback,
                lineage=_numbered(node.lineage),
                aim=mode.aim,
                demands=branch.demands,
            )
            if text is None:
                return None
            shots = self._shots(branch, node.candidate, text)
            child = branch.candidate(text, shots, parents=[node.candidate], operator=mode.name)
            return None if child is None else Node(child, node, feedback)

        drafts = await study.map(rewrite, range(self.n_new_prompts))
        return [draft for draft in drafts if draft is not None]

    def _shots(self, study: Study, parent: Candidate, text: str) -> Sequence[Demo]:
        """Return new random demonstrations for an instruction; the parent's if none are wanted."""
        if self.max_shots == 0:
            return parent.prompt.demos
        train = study.task.train
        picked = study.rng.permutation(len(train))[: study.rng.integers(0, self.max_shots + 1)]
        return [demonstrate(study.task, train[i], plain_output(text, train[i])) for i in picked]

    # Ends and sizes -----------------------------------------------------------------------------------

    def _finish(self, tree: Tree, path: list[Node]) -> None:
        tree.paths.append(path)
        tree.study.note("path", nodes=[node.candidate.id for node in path])

    async def _output(self, tree: Tree) -> Candidate:
        """Return the best node of the best path, or what wins among the top nodes and the initial prompt."""
        if self.output == "path":
            return _best(max(tree.paths, key=_mean_reward, default=[tree.root])).candidate
        top = sorted(tree.nodes, key=lambda node: -node.reward)[: self.n_finalists]
        n_more = max(0, tree.study.remaining_calls) // (len(top) + 1)  # the sample's cells are known and free
        return await tree.study.choose([node.candidate for node in top], tree.dev[: tree.n_eval + n_more])

    def _affords(self, tree: Tree, n_nodes: int = 1) -> bool:
        """Return whether an expansion of `n_nodes` leaves enough for the final choice; the first one need not."""
        is_spared = self.output == "choose" and len(tree.nodes) > 1
        n_reserved = int(_FINAL_SHARE * tree.study.size.n_calls) if is_spared else 0
        return tree.study.remaining_calls >= n_nodes * self._expansion_calls(tree.width, tree.n_eval) + n_reserved

    def _expansion_calls(self, width: int, n_eval: int) -> int:
        """Return the most answers that an expansion takes, with every rewriting asked for twice."""
        return width * (self.batch_size + 1 + self.n_new_prompts * (2 + n_eval))

    @property
    def _depth_limit(self) -> float:
        return self.depth_limit or (8 if self.search == "mcts" else math.inf)

    def _sizes(self, n_calls: int, n_dev: int = _USUAL_DEV) -> tuple[int, int]:
        """Return the width of an expansion and the size of the evaluation sample for a search of `n_calls`."""
        width = self.expand_width or (2 if n_calls < 500 else 3)
        return width, min(n_dev, self.n_eval or max(_SMALLEST_SAMPLE, round(math.sqrt(n_calls) / 2)))


def _best(nodes: Sequence[Node]) -> Node:
    """Return the node with the highest reward, the first of equals."""
    return max(nodes, key=lambda node: node.reward)


def _mean_reward(path: Sequence[Node]) -> float:
    return fmean(node.reward for node in path)


def _situation(
    study: Study, node: Node, mode: Mode, table: ScoreTable, picked: Sequence[int]
) -> Mapping[str, str]:
    """Return what the optimizer model is told of a prompt and its answers to some of a mini-batch."""
    blocks = []
    for i in picked:
        example, remark = table.examples[i], table.feedback[0][i]
        shown = render_demo(demonstrate(study.task, example, table.outputs[0][i] or "(no reply)"))
        blocks.append(f"{shown}\nRight output:\n{example.target}" + (f"\nRemark:\n{remark}" if remark else ""))
    return {
        "description": study.task.description or "see the prompt",
        "instruction": node.candidate.prompt.instruction,
        "verdict": mode.verdict,
        "examples": "\n\n".join(blocks),
    }


def _numbered(lineage: Sequence[Node]) -> str:
    """Return the prompts from the root to a node, each in a numbered tag."""
    texts = (node.candidate.prompt.instruction for node in lineage)
    return "\n".join(f"<version_{i}>\n{text}\n</version_{i}>" for i, text in enumerate(texts, 1))


def _batches(study: Study, size: int) -> Iterator[list[Example]]:
    """Yield mini-batches of train without end; each round takes all examples in a new random order."""
    train = study.task.train
    while True:
        order = study.rng.permutation(len(train))
        for start in range(0, len(train), size):
            yield [train[i] for i in order[start : start + size]]
