"""Try a bundle in a browser: `plumbline try vqa`.

It starts the server that lies in `exports/<task>`, or in `exports/align/<name>` of an alignment,
on the loopback interface and any free port, and opens its page: pick a stored sample or bring
something of your own, and see the answer. Ctrl-C ends it. Where the bundle goes, this page goes:
`python server.py` in its folder is the same.
"""

import argparse
import subprocess
import sys
import webbrowser

from plumbline.serving.bundles import find_bundle

LISTENING = "listening on "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a task, and where the page is."""
    parser.add_argument("task", help="a task or alignment, or the folder of a bundle")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--no-browser", action="store_true", help="say the address, open nothing")


def run(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: there is no such bundle.
        SystemExit: with the code of the server, where it ended by itself.
    """
    script = find_bundle(options.task) / "server.py"
    command = [sys.executable, str(script), "--host", "127.0.0.1", "--port", str(options.port)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
    assert server.stderr is not None
    try:
        for line in server.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            if line.startswith(LISTENING) and not options.no_browser:
                webbrowser.open(line.removeprefix(LISTENING).strip())
        code = server.wait()
    except KeyboardInterrupt:
        server.wait()  # the terminal has told it too
        return
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait()
    if code:
        raise SystemExit(code)
