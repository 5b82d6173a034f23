"""The picture of where the time went: a bar of shares, and the run over wall time.

Placed in percent like the charts. Seconds of a kind have one colour in both.
"""

import html
from collections.abc import Mapping, Sequence

from jaxllm.reporting import scale
from jaxllm.reporting.account import KINDS, Account, Interruption
from jaxllm.reporting.run import RunRecords

_BINS = 400  # columns of a time line
# Of the width: the least distance of two numbers over a time line, on a screen and on a phone.
_LABEL_ROOM, _LABEL_ROOM_NARROW = 0.03, 0.085
_CUTS_HEIGHT = 20  # of their marks and numbers, in pixels
_LISTED_OPEN = 6  # interruptions that are listed without being asked for
_DOWN, _BACK = "M-4 12h8l-4 7z", "M4 11v8l-8-4z"  # the marks of an interruption and a rollback


def section(runs: Sequence[RunRecords]) -> str:
    """The section of the page; nothing where no run has an account."""
    known = [(index, run, run.account) for index, run in enumerate(runs) if run.account]
    if not known:
        return ""
    until = max(account.wall for _, _, account in known)
    present = {kind for _, _, account in known for kind in account.seconds}
    if len(runs) == 1:
        account = known[0][2]
        content = (
            f"{_caption(account)}{_bar(account)}{_legend(account.seconds, account)}"
            f"{_line(account, until=until)}{_list(account, is_open=True)}"
        )
    else:
        rows = "".join(
            f"<div class='account-run run-{index}'><h3><i class='swatch c{index}' "
            f"aria-hidden='true'></i>{html.escape(run.name)}</h3>{_caption(account)}"
            f"{_bar(account)}{_line(account, until=until)}{_list(account, is_open=False)}</div>"
            for index, run, account in known
        )
        content = _legend(dict.fromkeys(present, 0.0), None) + rows
    return (
        f"<section><h2>Where the time went</h2><figure class='card account'>{content}</figure>"
        "</section>"
    )


def _caption(account: Account) -> str:
    return (
        f"<figcaption><b>{_percent(account.goodput)} of the time in productive steps</b>"
        f"<span class='units'>{scale.duration(account.wall)} since the first start \u00b7 "
        f"{_cuts_in_words(account)}</span></figcaption>"
    )


def _cuts_in_words(account: Account) -> str:
    back = sum(cut.is_rollback for cut in account.interruptions)
    count = len(account.interruptions) - back
    times = "no interruption" if not count else f"{count:,} interruption{'s' * (count > 1)}"
    return times + (f", {back:,} rollback{'s' * (back > 1)}" if back else "")


def _bar(account: Account) -> str:
    """All seconds side by side."""
    seconds = account.seconds
    total, left, parts = sum(seconds.values()), 0.0, []
    for kind, spent in seconds.items():
        share = spent / total
        text = f"{KINDS[kind]}: {_percent(share)}, {scale.duration(spent)}"
        parts.append(
            f'<rect class="k-{kind}" x="{100 * left:.3f}%" width="{100 * share:.3f}%" '
            f'height="100%"><title>{text}</title></rect>'
        )
        left += share
    label = "; ".join(f"{KINDS[k]} {_percent(s / total)}" for k, s in seconds.items())
    return (
        f"<svg class='shares' role='img' aria-label='Shares of the time. {label}'>"
        f"{''.join(parts)}</svg>"
    )


def _legend(seconds: Mapping[str, float], account: Account | None) -> str:
    """What the colours mean; of one run with its shares too."""
    items = []
    for kind, name in KINDS.items():
        if kind not in seconds:
            continue
        figures = ""
        if account is not None:
            share = seconds[kind] / sum(seconds.values())
            figures = f" <b>{_percent(share)}</b> <small>{scale.duration(seconds[kind])}</small>"
        items.append(f"<li><i class='kind k-{kind}' aria-hidden='true'></i>{name}{figures}</li>")
    return f"<ul class='key'>{''.join(items)}</ul>"


def _line(account: Account, *, until: float) -> str:
    """The run over wall time: in each column the kinds of its seconds, interruptions above it."""
    label = f"The run over wall time: {scale.duration(account.wall)}, with "
    label += _cuts_in_words(account)
    top = _CUTS_HEIGHT if account.interruptions else 0
    return (
        f"<svg class='timeline' role='img' aria-label='{label}' height='{top + 76}'>"
        f'<svg y="{top}" height="52" viewBox="0 0 1000 100" preserveAspectRatio="none">'
        f'{_columns(account, until)}</svg><svg y="{top + 52}" overflow="visible">{_axis(until)}'
        f"</svg>{_cuts(account, until)}</svg>"
    )


def _columns(account: Account, until: float) -> str:
    """A path for each kind; equal neighbours are drawn as one."""
    boxes: dict[str, list[str]] = {kind: [] for kind in KINDS}
    stacks = [_stack(seconds) for seconds in account.binned(_BINS, until=until)]
    width, first = 1000 / _BINS, 0
    for index in range(1, _BINS + 1):
        if index < _BINS and stacks[index] == stacks[first]:
            continue
        for kind, (low, high) in stacks[first].items():
            run = f"h{width * (index - first):.1f}"
            boxes[kind].append(
                f"M{width * first:.1f} {100 - high}{run}v{high - low}{run.replace('h', 'h-')}z"
            )
        first = index
    return "".join(f'<path class="k-{k}" d="{"".join(b)}"/>' for k, b in boxes.items() if b)


def _stack(seconds: Mapping[str, float]) -> dict[str, tuple[int, int]]:
    """Where each kind lies in a column, in whole percent; none for a column without seconds."""
    total, low, stack = sum(seconds.values()), 0.0, {}
    for kind in KINDS:
        high = low + seconds.get(kind, 0.0) / (total or 1.0)
        if round(100 * high) > round(100 * low):
            stack[kind] = (round(100 * low), round(100 * high))
        low = high
    return stack


def _axis(until: float) -> str:
    parts = ['<line class="axis" x1="0" x2="100%" y1="0.5" y2="0.5"/>']
    for tick, text in scale.time_ticks(until):
        at = tick / until
        anchor = "start" if at < 0.02 else "end" if at > 0.97 else "middle"
        parts.append(
            f'<line class="axis" x1="{100 * at:.2f}%" x2="{100 * at:.2f}%" y1="0" y2="5"/>'
            f'<text class="tick" x="{100 * at:.2f}%" y="19" text-anchor="{anchor}">{text}</text>'
        )
    return "".join(parts)


def _cuts(account: Account, until: float) -> str:
    """A tick for each interruption and rollback; numbered where there is room."""
    parts, free_from, free_from_narrow = [], 0.0, 0.0
    for number, cut in enumerate(account.interruptions, start=1):
        at = cut.at / until
        text, mark = "", _BACK if cut.is_rollback else _DOWN
        if at >= free_from:
            kind = "cut-number" if at >= free_from_narrow else "cut-number wide-only"
            text = f'<text class="{kind}" y="9" text-anchor="middle">{number}</text>'
            free_from = at + _LABEL_ROOM
            if at >= free_from_narrow:
                free_from_narrow = at + _LABEL_ROOM_NARROW
        parts.append(
            f'<svg x="{100 * at:.2f}%" overflow="visible" class="cut">'
            f"<title>{html.escape(_sentence(number, cut))}</title>"
            f'<rect class="reach" x="-5" width="10" height="76"/>{text}'
            f'<path class="cut-mark" d="{mark}"/><line y1="12" y2="74"/></svg>'
        )
    return "".join(parts)


def _sentence(number: int, cut: Interruption) -> str:
    steps = f" and {cut.lost_steps:,} step{'s' * (cut.lost_steps != 1)}" if cut.lost_steps else ""
    return (
        f"{number}. After {scale.duration(cut.at)}, at step {cut.step:,}: {cut.how}. "
        f"Went on from step {cut.resumed:,}. Lost: {scale.duration(cut.lost_seconds)}{steps}"
    )


_COLUMNS = (
    "#",
    "After",
    "At step",
    "How it ended",
    "Restarting",
    "Compiling",
    "Done again",
    "Lost",
)


def _list(account: Account, *, is_open: bool) -> str:
    """Every interruption as a row; folded where there are many."""
    cuts = account.interruptions
    if not cuts:
        return ""
    head = "".join(
        f"<th scope='col'{' class=how' if name == 'How it ended' else ''}>{name}</th>"
        for name in _COLUMNS
    )
    rows = "".join(_row(number, cut) for number, cut in enumerate(cuts, start=1))
    opened = " open" if is_open and len(cuts) <= _LISTED_OPEN else ""
    lost = scale.duration(sum(cut.lost_seconds for cut in cuts))
    name = "Interruptions and rollbacks" if any(c.is_rollback for c in cuts) else "Interruptions"
    return (
        f"<details{opened}><summary>{name} ({len(cuts):,}): {lost} lost</summary>"
        f"<div class='scroll' tabindex='0' role='region' aria-label='{name}'>"
        f"<table class='cuts'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        "</details>"
    )


def _row(number: int, cut: Interruption) -> str:
    restart, compiling, again = (
        scale.duration(cut.lost[kind]) if cut.lost[kind] else "\u2013"
        for kind in ("restart", "compile", "recomputation")
    )
    if cut.lost_steps:
        steps = f"{cut.lost_steps:,} step{'s' * (cut.lost_steps != 1)}"
        again = f"{steps}, {again}" if cut.lost["recomputation"] else f"{steps} to come"
    return (
        f"<tr><td>{number:,}</td><td>{scale.duration(cut.at)}</td><td>{cut.step:,}</td>"
        f"<td class='how'>{html.escape(cut.how)}</td><td>{restart}</td><td>{compiling}</td>"
        f"<td>{again}</td><td><b>{scale.duration(cut.lost_seconds)}</b></td></tr>"
    )


def _percent(share: float) -> str:
    """A share as percent in HTML, with one decimal: 83.1%, 0.4%, &lt;0.1%."""
    return "&lt;0.1%" if 0 < share < 0.0005 else f"{100 * share:.1f}%"
