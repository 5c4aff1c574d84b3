# SPDX-License-Identifier: BSD-3-Clause
"""The pages of data owners and auditors, `/owner/…`: server-rendered, without a build step.

What they are: forms and tables over the same functions that the owner's calls use, so that whatever is done
here has an entry in the audit log too. What they are not: another way to decide something.

Invariants:

- Nobody sees a page without a login with the role owner or auditor, and only an owner changes anything.
- What changes something is a POST with the login's CSRF token, and answers with a redirect.
- Templates escape whatever they print. The content security policy knows one style sheet and one script, both
  files of this package; everything works without the script.
- Times are UTC, and the present is a parameter.
"""

from sealroom_broker.owner_pages.routes import ROUTES

__all__ = ["ROUTES"]
