from .decoding import count_positions_by_mask as count_positions_by_mask
from .decoding import pad_left as pad_left
from .hf import HFRequestSampler as HFRequestSampler
from .hf import HFSampler as HFSampler
from .hf import end_of_sequence_ids as end_of_sequence_ids
from .hf import load_policy as load_policy
from .sampler import PromptWriter as PromptWriter
from .sampler import Request as Request
from .sampler import Sampled as Sampled
from .sampler import Sampler as Sampler
from .sampler import ScriptedSampler as ScriptedSampler
from .sampler import encode_prompt as encode_prompt
from .sampler import rollout_of_ids as rollout_of_ids
from .sampler import rollout_of_row as rollout_of_row
from .sampler import score as score
from .served import EndpointSampler as EndpointSampler
from .served import Forcing as Forcing
from .served import JoinedSampler as JoinedSampler
from .served import ServerTokenizer as ServerTokenizer
from .served import VLLMSampler as VLLMSampler
from .served import ask_for_tokenizer as ask_for_tokenizer
from .served import load_vllm as load_vllm
from .store import Collected as Collected
from .store import RolloutStore as RolloutStore
from .store import collect as collect
from .store import settings_of as settings_of

__all__ = [
    "Collected",
    "EndpointSampler",
    "Forcing",
    "HFRequestSampler",
    "HFSampler",
    "JoinedSampler",
    "PromptWriter",
    "Request",
    "RolloutStore",
    "Sampled",
    "Sampler",
    "ScriptedSampler",
    "ServerTokenizer",
    "VLLMSampler",
    "ask_for_tokenizer",
    "collect",
    "count_positions_by_mask",
    "encode_prompt",
    "end_of_sequence_ids",
    "load_policy",
    "load_vllm",
    "pad_left",
    "rollout_of_ids",
    "rollout_of_row",
    "score",
    "settings_of",
]
