"""Pictures of a run: what they show, how they are drawn, and the command that writes them."""

from adalora_ref.plots.pictures import figures

__all__ = ["figures"]
