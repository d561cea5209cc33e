"""The console that tables are printed on."""

from rich.console import Console


def table_console(min_width: int) -> Console:
    """A console for tables, at least that many characters wide where it writes to a file."""
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, min_width)
    return console
