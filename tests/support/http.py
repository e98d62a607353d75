"""HTTP clients that share a TLS context: creating a context takes 50 ms of CPU time, and polls create many clients."""

import ssl
from functools import partial
from typing import Final

import httpx

TLS: Final = ssl.create_default_context()

get = partial(httpx.get, verify=TLS)
post = partial(httpx.post, verify=TLS)
request = partial(httpx.request, verify=TLS)
head = partial(httpx.head, verify=TLS)
Client = partial(httpx.Client, verify=TLS)
AsyncClient = partial(httpx.AsyncClient, verify=TLS)
