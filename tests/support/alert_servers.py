"""Real servers on this machine that messages are sent to, and the way for Apprise's fixed hosts to find them.

Apprise's plugins for Slack, Discord and Teams send to `hooks.slack.com`, `discord.com` and the like over TLS. They run
here as they are. What is replaced is the world around them: the names are resolved to this machine, port 443 to the
port of the server here, and its certificate is signed by an authority made for the test, which `requests` trusts by
REQUESTS_CA_BUNDLE.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from o9_testing import free_port

PASSWORD = "T0P secret/@?&%"
HOSTS = ("localhost", "hooks.slack.com", "discord.com", "teams.example.com", "api.telegram.org", "mail.example.com")


@dataclass
class Received:
    """One request, whole."""

    host: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answered:
    """What the server answers; `fault` instead of an answer: hang or reset."""

    status: int = 200
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)
    fault: str = ""


class HookServer:
    """Takes requests, keeps them, and answers as the test has told it; without word it answers `ok`."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.received: list[Received] = []
        self.answers: list[Answered] = []
        self.otherwise = Answered()
        self.let_go = threading.Event()
        hooks = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                hooks.received.append(Received(headers.get("host", ""), self.path, headers, body))
                answer = hooks.answers.pop(0) if hooks.answers else hooks.otherwise
                if answer.fault == "hang":
                    hooks.let_go.wait(30)
                    self.close_connection = True
                    return
                if answer.fault == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that went away, as some tests let it

        self._server = Server(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def make_certificates(folder: Path) -> tuple[Path, Path]:
    """A certificate for HOSTS with its key, and the authority that signed it."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: x509.Name,
        signer: ec.EllipticCurvePrivateKey,
        authority: bool,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if not authority:
            names = x509.SubjectAlternativeName([x509.DNSName(each) for each in HOSTS])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(signer, hashes.SHA256())

    signer, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of this test")])
    root = certificate("Authority of this test", signer, authority, signer, True)
    leaf = certificate("localhost", key, authority, signer, False)
    own, trusted = folder / "server.pem", folder / "authority.pem"
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    own.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + leaf.public_bytes(pem))
    trusted.write_bytes(root.public_bytes(pem))
    return own, trusted


@contextlib.contextmanager
def names_lead_here(port: int, resolve: Callable[..., Any] = socket.getaddrinfo) -> Iterator[list[str]]:
    """HOSTS are this machine, and their port 443 is `port`. Gives the names that were asked for."""
    asked: list[str] = []

    def resolved(host: Any, service: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name in HOSTS[1:]:
            asked.append(name)
            return resolve("127.0.0.1", port if service == 443 else service, *args, **kwargs)
        return resolve(host, service, *args, **kwargs)

    socket.getaddrinfo = resolved  # type: ignore[assignment]
    try:
        yield asked
    finally:
        socket.getaddrinfo = resolve


@dataclass
class Letter:
    """One message as the mail server took it."""

    sender: str
    recipients: list[str]
    content: bytes
    login: bytes
    over_tls: bool


class MailServer:
    """An SMTP server that wants TLS (from the first byte, or by STARTTLS) and the login me@example.com / T0P secret."""

    def __init__(self, certificate: Path, *, starttls: bool) -> None:
        self.letters: list[Letter] = []
        self.answers: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        over = {"tls_context": context, "require_starttls": True} if starttls else {"ssl_context": context}
        self._controller = Controller(
            self, hostname="127.0.0.1", port=free_port(), server_hostname="localhost",
            authenticator=self._authenticate, auth_required=True, auth_require_tls=starttls, **over,
        )  # fmt: skip
        self._controller.start()
        self.port: int = self._controller.port

    @staticmethod
    def _authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        right = data == LoginPassword(b"me@example.com", PASSWORD.encode())
        return AuthResult(success=right, handled=False, auth_data=data)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if self.answers and self.answers[0].startswith("RCPT "):
            return self.answers.pop(0).removeprefix("RCPT ")
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.answers:
            return self.answers.pop(0)
        over_tls = session.ssl is not None or server.transport.get_extra_info("ssl_object") is not None
        letter = Letter(envelope.mail_from, envelope.rcpt_tos, envelope.content, session.auth_data.login, over_tls)
        self.letters.append(letter)
        return "250 OK"

    def close(self) -> None:
        self._controller.stop()
