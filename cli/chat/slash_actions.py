"""The actions of a chat's commands on its session, one function each.

Each is given the text that was typed after the command's name. Knows nothing of how commands are named, listed or
completed.
"""

import os
import time
from dataclasses import replace
from pathlib import Path

from mlx_diffusion.cli.chat import archive
from mlx_diffusion.cli.chat.cells import one_line
from mlx_diffusion.cli.chat.conversation import Conversation, ConversationError
from mlx_diffusion.cli.chat.files import typed_path
from mlx_diffusion.cli.chat.markup import show
from mlx_diffusion.cli.chat.nearest import nearest
from mlx_diffusion.cli.chat.session import Session
from mlx_diffusion.cli.chat.settings import DEFAULT, describe, key_named, with_setting
from mlx_diffusion.cli.report import figures_line
from mlx_diffusion.display import count_of
from mlx_diffusion.errors import OptionError
from mlx_diffusion.modes import MODES, MODES_WITH
from mlx_diffusion.options import NAMES, GenerationConfig
from mlx_diffusion.visible_text import notice

FORCE = "--force"
SWITCH = ("on", "off", "show")


class Leave(Exception):
    """The chat is to end."""


def reset(session: Session, argument: str) -> None:
    session.conversation.messages.clear()
    session.attachments.clear()
    if session.archive is not None:
        session.archive.begin_anew()
    session.tell("a new conversation; settings and system message are as before")


def set_system(session: Session, argument: str) -> None:
    if argument:
        session.conversation.system = None if argument == "off" else argument
        session.keep_changes()
    session.tell(f"system: {session.conversation.system or '(none)'}")


def undo(session: Session, argument: str) -> None:
    question = session.conversation.undo()
    session.tried = None
    session.keep_changes()
    session.tell(f"taken back: {one_line(question, 60)}")


def retry(session: Session, argument: str) -> bool:
    conversation = session.conversation
    if argument and not argument.isdecimal():
        raise OptionError(f"the seed is {argument!r}; it must be a whole number, 0 or more")
    before = None if conversation.open_question else conversation.messages[-1:]
    used = session.tried if before is None else conversation.last_seed
    conversation.reopen()
    try:
        if argument:
            seed = int(argument)
        else:
            seed = session.speaker.settings(conversation.settings).seed if used is None else used + 1
        session.tell(f"seed {seed}")
        return session.respond(seed)
    finally:
        if before and conversation.open_question:  # it has got no other answer
            conversation.messages += before
            session.keep_changes()


def save_conversation(session: Session, argument: str) -> None:
    words = argument.split(" ")
    force = FORCE in (words[0], words[-1])
    name = argument.removeprefix(FORCE).removesuffix(FORCE).strip() if force else argument
    if not name:
        raise OptionError("/save needs the file to write, as in: /save talk.json (to load again) or talk.md (to read)")
    path = typed_path(name)
    if os.path.lexists(path) and not force:
        raise OptionError(f"{path} is there already; /save {FORCE} {name} writes over it")
    archive.write(path, session.conversation)
    session.tell(f"saved to {path}")


def load_conversation(session: Session, argument: str) -> None:
    path = typed_path(argument) if argument else _last(session)
    loaded = archive.read(path)
    session.speaker.settings(loaded.settings)
    before, saved_with = session.conversation, loaded.model
    session.conversation = replace(loaded, model=session.speaker.name)
    session.attachments.clear()
    session.tried = None
    if session.archive is not None:
        session.archive.begin_anew()
    session.keep_changes()
    if saved_with != session.speaker.name:
        session.tell(notice(f"held with {saved_with}, goes on with {session.speaker.name}"))
    _recall(session)
    _tell_what_changed(session, before)


def _tell_what_changed(session: Session, before: Conversation) -> None:
    """Say which settings a loaded conversation has brought with it, and how they are left."""
    now = session.conversation
    settings = session.speaker.settings(now.settings)
    changed = [name for name in NAMES if getattr(now.settings, name) != getattr(before.settings, name)]
    lines = [describe(now.settings, settings, name) for name in changed]
    if now.think != before.think:
        lines.append(f"thinking is {'on' if now.think else 'off'}")
    if now.system != before.system:
        lines.append(notice(f"system: {now.system or '(none)'}"))
    if lines:
        session.tell("\n".join(["it was held with other settings, which count from here on:", *lines]))
        session.tell(f"/set {DEFAULT} takes the defaults of all options; /think off and /system off take back those")


def _last(session: Session) -> Path:
    path = session.archive.last() if session.archive is not None else None
    if path is None:
        raise ConversationError("no earlier conversation is kept; name a file, as in: /load talk.json")
    return path


def _recall(session: Session) -> None:
    """Show the end of a conversation."""
    messages = session.conversation.messages
    session.tell(f"{count_of(sum(message.role == 'user' for message in messages), 'question')}, the last:")
    for message in messages[-1:] if session.conversation.open_question else messages[-2:]:
        if message.role == "user":
            show(session.console, f"> {message.content}")
        else:
            show(session.console, message.content)
    if session.conversation.open_question:
        session.tell("it has no answer yet; /retry gives one")


def set_option(session: Session, argument: str) -> None:
    conversation = session.conversation
    if argument == DEFAULT:
        conversation.settings = GenerationConfig()
        session.keep_changes()
        argument = ""
    key, _, value = argument.partition(" ")
    names = [key_named(key)] if key else NAMES
    if value.strip():
        changed = with_setting(conversation.settings, key, value.strip())
        session.speaker.settings(changed)  # it must make sense with the checkpoint's values, too
        conversation.settings = changed
        session.keep_changes()
    settings = session.speaker.settings(conversation.settings)
    names = [name for name in names if key or settings.mode in MODES_WITH.get(name, MODES)]
    session.tell("\n".join(describe(conversation.settings, settings, name) for name in names))


def set_mode(session: Session, argument: str) -> None:
    set_option(session, f"mode {argument}")


def set_thinking(session: Session, argument: str) -> None:
    if argument == "show":
        if session.last is not None and session.last.thought:
            show(session.console, session.last.thought)
        else:
            session.tell("there was no thought before the last answer")
        return
    if argument and argument not in SWITCH:
        raise OptionError(f"/think {argument}: the nearest is {nearest(argument, SWITCH)!r}, of {', '.join(SWITCH)}")
    if argument:
        session.conversation.think = argument == "on"
        session.keep_changes()
    session.tell(f"thinking is {'on' if session.conversation.think else 'off'}")


def show_figures(session: Session, argument: str) -> None:
    conversation, speaker = session.conversation, session.speaker
    tokens = len(speaker.encode(conversation.prompt(), conversation.think)) if conversation.messages else 0
    lines = [f"model {speaker.name} · context {tokens:,} of {count_of(speaker.longest_prompt, 'token')}"]
    if session.totals:
        stats = session.totals[-1].stats
        generated = sum(finish.stats.generated_tokens for finish in session.totals)
        seconds = sum(finish.stats.generation_seconds for finish in session.totals)
        lines += [
            f"last answer: {figures_line(session.totals[-1])}",
            f"  known of its prompt from earlier turns: {count_of(stats.cached_tokens, 'token')}",
            f"all {count_of(len(session.totals), 'answer')}: {count_of(generated, 'token')} in {seconds:.1f} s",
        ]
    session.tell("\n".join([*lines, f"memory in use {speaker.memory_bytes() / 1e9:.2f} GB"]))


def attach_file(session: Session, argument: str) -> None:
    if argument == "off":
        session.attachments.clear()
    if argument in ("", "off"):
        names = ", ".join(name for name, _ in session.attachments)
        session.tell(f"with your next message: {names or 'no file'}; /file notes.txt adds one, /file off drops all")
        return
    session.attach(typed_path(argument))


def leave(session: Session, argument: str) -> None:
    raise Leave


def offer_last(session: Session) -> None:
    """Say that an earlier conversation can be continued, if there is one."""
    path = session.archive.last() if session.archive is not None else None
    if path is None:
        return
    earlier = archive.read(path)
    questions = sum(message.role == "user" for message in earlier.messages)
    if questions:
        when = time.strftime("%d %b %H:%M", time.localtime(path.stat().st_mtime))
        session.tell(
            f"Your last conversation ({when}, {count_of(questions, 'question')}) is kept: /load goes on with it."
        )
