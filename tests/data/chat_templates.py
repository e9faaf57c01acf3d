"""Chat templates in the manner of those that models come with."""

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# the system prompt goes into the first user's turn; turns must alternate; texts are trimmed
MERGING = (
    "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in (messages[1:] if system else messages) %}"
    "{% if m.role != ['user', 'assistant'][loop.index0 % 2] %}"
    "{{ raise_exception('After ' ~ loop.index0 ~ ' turns it is not for ' ~ m.role ~ ' to speak') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {% if loop.first and system %}<<{{ system }}>> {% endif %}"
    "{{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)

# no system prompt, and the assistant has another name
STRICT = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('A system prompt is not supported') }}{% endif %}"
    "{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)

# says itself what the assistant writes
MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# an empty thought stands before the last answer, and before no other
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# the prompt opens a thought that a finished answer leaves out
OPENING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token if m.role == 'assistant' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)

# knows two roles, and passes over the others in silence
DEAF = (
    "{% for m in messages %}{% if m.role == 'user' %}U: {{ m.content }}\n"
    "{% elif m.role == 'assistant' %}A: {{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)

CALLING = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool.function.name }} {% endfor %}</tools>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls %}<call>{{ call.function.name }}{{ call.function.arguments | tojson }}</call>"
    "{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

DATED = "Today: {{ strftime_now('%d %b %Y %H:%M:%S') if strftime_now is defined else 'never' }}\n" + CHATML

# how a turn is written depends on how many there are
COUNTING = "{% for m in messages %}[{{ loop.index }}/{{ messages | length }} {{ m.role }}]{{ m.content }}\n{% endfor %}"

# only the last answer has an end
ENDING_ONCE = (
    "{% for m in messages %}{% if m.role == 'user' %}U: {{ m.content }}"
    "{% else %}A: {{ m.content }}{{ eos_token if loop.last }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}A: {% endif %}"
)
