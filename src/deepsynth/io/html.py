"""HTML pages from the templates in ``io/templates``."""

from __future__ import annotations


def render_page(template: str, **values: object) -> str:
    """Return a self-contained HTML page.

    Args:
        template: name of a file in ``io/templates``, such as ``gallery.html``.
        values: variables of the template; strings are escaped unless they are ``markupsafe.Markup``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("deepsynth.io", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
