import subprocess
import sys

import pytest

from spd_weights.errors import SpdError, reason, run_command, shown


def _raise(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (lambda: None, 0, ""),
        (lambda: 75, 75, ""),
        (lambda: _raise(SpdError("a.jpg is no image; remove it")), 2, "error: a.jpg is no image; remove it\n"),
        (lambda: _raise(PermissionError(13, "Permission denied", "a.jpg")), 2, "error: a.jpg: Permission denied\n"),
        (lambda: _raise(OSError("no route")), 2, "error: no route\n"),
        (lambda: _raise(KeyboardInterrupt()), 130, "interrupted; run it again to resume\n"),
    ],
)
def test_exit_codes(command: object, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(command, "interrupted; run it again to resume") == code  # type: ignore[arg-type]
    assert capsys.readouterr().err == message


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


def test_closed_pipe_is_no_error() -> None:
    code = "from spd_weights.errors import run_command; run_command(lambda: print('line\\n' * 100_000))"
    done = subprocess.run(
        f'{sys.executable} -W ignore -c "{code}" | head -1', shell=True, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("line\n", "")


def test_stdout_may_be_closed_or_unable_to_print_a_name() -> None:
    code = "from spd_weights.errors import run_command; raise SystemExit(run_command(lambda: print('\\udcff')))"
    for redirection, printed in ((">&-", ""), ("", "\\udcff\n")):
        done = subprocess.run(
            f'{sys.executable} -W ignore -c "{code}" {redirection}', shell=True, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


def test_shown_is_one_short_printable_line() -> None:
    assert shown("a\nb") == "'a\\nb'"
    assert len(shown("x" * 1000)) == 100
    assert shown("x" * 30, 10) == "xxxxxxxxx…"


def test_the_reason_is_one_short_printable_line_and_never_empty() -> None:
    assert reason(ValueError("a\n  b\x1b[31m")) == "'a b\\x1b[31m'"
    assert reason(KeyError(101)) == "KeyError: 101"
    assert reason(NotImplementedError()) == "NotImplementedError: "
