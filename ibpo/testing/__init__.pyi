from .clock import Clock
from .decisions import force, used_up
from .gateways import FakeGateway, gateway
from .policy import FakeAnswer, FakePolicy, problems
from .response_log import ResponseLog, responses
from .servers import FakeUpstream, Fault, upstream
from .trainers import tiny_model, tiny_tokenizer, trainer

__all__ = [
    "Clock",
    "FakeAnswer",
    "FakeGateway",
    "FakePolicy",
    "FakeUpstream",
    "Fault",
    "ResponseLog",
    "force",
    "gateway",
    "problems",
    "responses",
    "tiny_model",
    "tiny_tokenizer",
    "trainer",
    "upstream",
    "used_up",
]
