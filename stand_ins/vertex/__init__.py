"""Vertex AI: the real clients, whose address is fixed, reach this stand-in through a proxy and with TLS."""

from stand_ins.vertex.server import VertexStandIn

__all__ = ["VertexStandIn"]
