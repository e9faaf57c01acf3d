"""Why a SuperNode is not let in, as far as a plain request to the server tells: the way, the certificate, the clock."""

from __future__ import annotations

import http.client
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from thinwire.flower.folder import CA, open_link

AHEAD, BEHIND = 5.0, 305.0
"""Seconds a site's clock may be ahead of the server's, or behind it: Flower refuses a node's signature beyond them."""


def trouble(site: Path) -> str:
    """What keeps the site from its server, in words; empty if a request shows nothing."""
    address = open_link(site).address
    try:
        offset = clock_offset(site)
    except ssl.SSLCertVerificationError as error:
        here = datetime.now(UTC).isoformat(timespec="seconds")
        return f"the certificate of {address} is not accepted: {error.verify_message} (the clock here says {here})"
    except (OSError, http.client.HTTPException) as error:
        return f"{address} does not answer: {error}"
    if not -BEHIND < offset < AHEAD:
        way = "ahead of" if offset > 0 else "behind"
        return (
            f"the clock of this site is {abs(offset):.0f} s {way} the server's; allowed is at most {AHEAD:g} s ahead "
            f"and {BEHIND:g} s behind: set the clock, by NTP"
        )
    return ""


def clock_offset(site: Path) -> float:
    """Seconds by which the clock here is ahead of the server's, to about one second, by the Date of an answer.

    Raises: ssl.SSLCertVerificationError, OSError, HTTPException.
    """
    host, _, port = open_link(site).address.rpartition(":")
    context = ssl.create_default_context(cafile=str(site / CA))
    connection = http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=10, context=context)
    try:
        connection.request("GET", "/v1/fleet/")
        date = connection.getresponse().getheader("Date")
    finally:
        connection.close()
    if date is None:
        raise http.client.HTTPException("its answer has no date")
    return (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
