"""Words at a prompt: the typed line, quoting for shells, and the scripts' own functions. Pure."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

WORDS = ("agents", "identities", "keys")
"""Words that a prompt looks up at a relay, or among the identities kept here."""
KINDS = (*WORDS, "keys_or_paths")
_FLAGS = {"--relay": "relay", "--token": "token", "--as": "named", "--ca": "ca"}
# Characters that no shell acts on. A letter of any script is one.
_PLAIN = re.compile(r"[\w@%+=:,./-]", re.ASCII)


class Typed(NamedTuple):
    """The beginning of a word: the text that is meant, and the quotation mark that is still open."""

    text: str
    quote: str


def typed(raw: str, shell: str | None) -> Typed:
    """Read the beginning of a word as the shell would, without expanding anything in it."""
    if shell is None:
        return Typed(raw, "")
    text, quote, escaped = "", "", False
    for c in raw:
        if escaped:
            # Within double quotes a backslash before most characters is itself.
            text += c if not quote or c in '"\\$`' else "\\" + c
            escaped = False
        elif c == "\\" and quote != "'":
            escaped = True
        elif c == quote:
            quote = ""
        elif c in "'\"" and not quote:
            quote = c
        else:
            text += c
    return Typed(text, quote)


def as_typed(word: str, beginning: Typed, shell: str | None) -> str | None:
    """Return the word as it has to stand at the prompt; None if it cannot stand behind an open quotation mark.

    zsh and fish quote by themselves.
    """
    if shell != "bash":
        return word
    if beginning.quote:
        return word if all(_is_plain(c) or c == " " for c in word) else None
    return "".join(c if _is_plain(c) else "\\" + c for c in word)


def _is_plain(c: str) -> bool:
    return _PLAIN.fullmatch(c) is not None or (not c.isascii() and c.isalnum())


def flags_in(line: str) -> dict[str, str]:
    """Return the relay, token and identity that a line names. A line that cannot be read names none."""
    for end in ("", "'", '"'):
        try:
            words = shlex.split(line + end)
            break
        except ValueError:
            continue
    else:
        return {}
    found = {}
    for word, following in zip(words, [*words[1:], None], strict=False):
        name, joined, value = word.partition("=")
        if name in _FLAGS:
            given = value if joined else following
            if given is not None and not given.startswith("-"):
                found[_FLAGS[name]] = given
    return found


def _functions(template: str, of_agents: str = "") -> str:
    return "\n".join(
        template.replace("KIND", kind).replace("  SEVERAL\n", of_agents if kind == "agents" else "") for kind in WORDS
    )


# Nothing in these may expand a word: `compgen -W` does, so it never sees one. With `compopt -o filenames`, which shtab
# sets for functions with `_file` in their names, bash would quote keys, but leave a `$` and a bracket as they are.
BASH = (
    _functions("""\
_clawlink_KIND() {
  command clawlink completion --shell bash --line "$COMP_LINE" KIND -- "$1" 2>/dev/null
}""")
    + """
_clawlink_keys_or_paths() {
  local path home=""
  [[ $1 == "~"* ]] && home="~"
  while IFS= read -r path; do
    # A part of a name with a newline is no path.
    [[ -e ${path/#"~"/$HOME} || -L ${path/#"~"/$HOME} ]] || continue
    [[ -d ${path/#"~"/$HOME} ]] && path+=/
    printf '%s%q\\n' "$home" "${path#"$home"}"
  done < <(compgen -f -- "$1")
  _clawlink_keys "$1"
}"""
)

# bash breaks words at : and =, also within a key or an address. The function joins them again, and removes the part
# that bash keeps from the replies.
BASH_END = """

_clawlink_complete() {
  local rest="${COMP_LINE:0:COMP_POINT}" at word space name
  local -a joined=()
  for ((at = 0; at <= COMP_CWORD; at++)); do
    word="${COMP_WORDS[at]}"
    space="${rest%%[![:space:]]*}"
    rest="${rest#"$space"}"
    if ((at == 0)) || [[ -n $space ]]; then
      joined+=("$word")
    else
      joined[${#joined[@]}-1]+="$word"
    fi
    rest="${rest#"$word"}"
  done
  COMP_WORDS=()
  for word in "${joined[@]}"; do
    name="${word%%=*}"
    if [[ $word == --*=* ]]; then
      COMP_WORDS+=("$name" "${word#*=}")
    else
      COMP_WORDS+=("$word")
    fi
  done
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  word="${COMP_WORDS[COMP_CWORD]}"
  _shtab_clawlink
  local kept="${word%"${word##*[:=]}"}"
  for at in "${!COMPREPLY[@]}"; do
    COMPREPLY[at]="${COMPREPLY[at]#"$kept"}"
  done
  if ((${#COMPREPLY[@]} == 1)) && [[ ${COMPREPLY[0]} == */ ]]; then
    compopt -o nospace 2>/dev/null
  fi
  return 0
}
complete -o bashdefault -F _clawlink_complete clawlink"""

ZSH = (
    _functions(
        """\
_clawlink_KIND() {
  local -a offered
  SEVERAL
  offered=("${(@f)$(command clawlink completion --shell zsh --line "$BUFFER" KIND -- "$PREFIX" 2>/dev/null)}")
  offered=("${(@)offered:#}")
  (( ${#offered} )) && compadd -- "${offered[@]}"
}""",
        of_agents="  compset -P '*,'\n",
    )
    + """
_clawlink_keys_or_paths() {
  _files
  _clawlink_keys
}"""
)

FISH = """\
function __clawlink_words
  set -l line (commandline -cp | string collect)
  command clawlink completion --shell fish --line "$line" $argv[1] -- (commandline -ct) 2>/dev/null
end
function __clawlink_keys_or_paths
  __fish_complete_path (commandline -ct)
  __clawlink_words keys
end"""
