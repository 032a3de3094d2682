"""What others ask of us: "can you reach X?" Yes if X was just heard; else we try, and say what came of it.

The answer goes back by datagram and stream alike, because the asker's way to us may be lossy too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mesh.core.link import Link
from mesh.core.member import FOREVER
from mesh.core.verdict import Board
from mesh.core.vitals import Action, Answer, Ask, LivenessConfig, Ping, SendDatagram, SendFrame

ASKED_MAX = 64


class Question(NamedTuple):
    """One open question and when it is answered with no."""

    nonce: int
    deadline: float


class Favours:
    """Questions of others.

    Attributes:
        open: by (asker, subject), at most ASKED_MAX; the oldest is dropped (the asker has asked a second).
    """

    def __init__(
        self,
        config: LivenessConfig,
        board: Board,
        links: Mapping[bytes, Link],
        next_nonce: Callable[[], int],
    ) -> None:
        self._config, self._board, self._links, self._next_nonce = config, board, links, next_nonce
        self.open: dict[tuple[bytes, bytes], Question] = {}

    def asked(self, asker: bytes, ask: Ask, t: float, out: list[Action]) -> None:
        """A member asks about another."""
        subject = ask.subject
        member = self._board.members.get(subject)
        if member is None or subject == self._board.me or (asker, subject) in self.open:
            return
        self.open[asker, subject] = Question(ask.nonce, t + self._config.miss_s)
        if len(self.open) > ASKED_MAX:
            del self.open[next(iter(self.open))]
        if t - member.heard <= self._config.interval_s:
            self._answer(asker, subject, True, out)
            return
        ping = Ping(self._next_nonce())
        out.append(SendDatagram(subject, ping))
        self._send_frame(subject, ping, out)

    def heard(self, subject: bytes, out: list[Action]) -> None:
        """Something came from a member: yes to all who asked about it."""
        for asker, about in [key for key in self.open if key[1] == subject]:
            self._answer(asker, about, True, out)

    def tick(self, t: float, out: list[Action]) -> None:
        """Say no where the time is up."""
        for key in [key for key, question in self.open.items() if question.deadline <= t]:
            self._answer(*key, False, out)

    def due(self) -> float:
        """When the next question is answered with no."""
        if not self.open:
            return FOREVER
        return min(question.deadline for question in self.open.values())

    def _answer(self, asker: bytes, subject: bytes, heard: bool, out: list[Action]) -> None:
        answer = Answer(self.open.pop((asker, subject)).nonce, subject, heard)
        out.append(SendDatagram(asker, answer))
        self._send_frame(asker, answer, out)

    def _send_frame(self, aid: bytes, probe: Ping | Answer, out: list[Action]) -> None:
        link = self._links.get(aid)
        if link is not None and link.up:
            out.append(SendFrame(aid, probe))
