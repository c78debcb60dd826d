"""Who may use the JupyterLab of `make lab`: whoever has the token that it made for itself and printed."""

import secrets

from jupyter_server.auth.identity import PasswordIdentityProvider
from traitlets import Unicode, default


class FreshToken(PasswordIdentityProvider):
    """Jupyter's own, but for its token: a new one each time, in no list of processes, and no setting of the
    system, the user or the environment can name another, or none, or a password beside it."""

    token = Unicode()  # Jupyter's has the tag `config`, by which settings reach it
    hashed_password = Unicode()  # likewise

    @default("token")
    def _fresh(self) -> str:
        self.token_generated = True  # so that the address that is printed has it
        return secrets.token_hex(24)
