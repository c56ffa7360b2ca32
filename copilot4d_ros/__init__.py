"""ROS 2 adapters of the tokenizer: messages to arrays and back, the node, the bag player, the demo."""
