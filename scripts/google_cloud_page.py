"""Writes the generated parts of docs/google-cloud.md: services, roles given by a person, and the table of grants."""

from __future__ import annotations

import sys
from pathlib import Path

from rl_core.backends.gcp.provisioning.grants import APIS, BY_HAND, markdown

PAGE = Path(__file__).resolve().parent.parent / "docs" / "google-cloud.md"


def parts() -> dict[str, str]:
    """Write the text between each pair of markers."""
    services = "".join(f" \\\n  {api}.googleapis.com" for api in ("composer", "compute", *APIS))
    roles = "".join(f" \\\n  {grant.role}" for grant in BY_HAND if grant.to == "provisioner")
    loop = (
        f"for role in{roles}; do\n"
        '  gcloud projects add-iam-policy-binding "$PROJECT" --condition=None \\\n'
        '    --member "serviceAccount:banditloop-provisioner@$PROJECT.iam.gserviceaccount.com" --role "$role"\n'
        "done"
    )
    return {
        "apis": f"```bash\ngcloud services enable{services}\n```",
        "provisioner": f"```bash\n{loop}\n```",
        "grants": markdown(),
    }


def generated(page: str) -> str:
    """Return the page with its generated parts anew."""
    for name, text in parts().items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        page = f"{before}{begin}\n{text}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text()))
    sys.exit(0)
