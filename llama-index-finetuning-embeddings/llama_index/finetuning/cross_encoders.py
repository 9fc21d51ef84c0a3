"""Old import path of an engine that is not carried: importing it says where to go."""

from llama_index.finetuning._not_carried import missing_name

raise missing_name(__name__, "CrossEncoderFinetuneEngine")
