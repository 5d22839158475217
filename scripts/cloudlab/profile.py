"""A cluster for Medes: one controller and N agents on one LAN, on nodes with RDMA-capable network cards.

Instructions:
When all nodes are "ready", log in to the node `controller` and follow docs/cloudlab.md of the project from "Bring the cluster up" on.
The set-up of each node is in its /var/log/medes-setup.log.
"""

# Not tried without CloudLab: geni-lib's `geni.portal` exists only there. What this file does is kept to its documented calls.
import geni.portal as portal
import geni.rspec.pg as rspec

pc = portal.Context()
pc.defineParameter("agents", "Number of agents", portal.ParameterType.INTEGER, 3,
                   longDescription="The paper used 19.")
pc.defineParameter("type", "Node type", portal.ParameterType.NODETYPE, "c6220",
                   legalValues=[("c6220", "Apt: 16 cores, 64 GB, ConnectX-3"), ("r320", "Apt: 8 cores, 16 GB, ConnectX-3"),
                                ("c6525-25g", "Utah: 16 cores, 128 GB, ConnectX-5"), ("c6525-100g", "Utah: 24 cores, 128 GB, ConnectX-5"),
                                ("d6515", "Utah: 32 cores, 128 GB, ConnectX-5"), ("r7525", "Clemson: 64 cores, 512 GB, ConnectX-6"),
                                ("xl170", "Utah: 10 cores, 64 GB, ConnectX-4")])
pc.defineParameter("image", "Image", portal.ParameterType.IMAGE, "urn:publicid:IDN+emulab.net+image+emulab-ops//UBUNTU22-64-STD",
                   legalValues=[("urn:publicid:IDN+emulab.net+image+emulab-ops//UBUNTU22-64-STD", "Ubuntu 22.04"),
                                ("urn:publicid:IDN+emulab.net+image+emulab-ops//UBUNTU24-64-STD", "Ubuntu 24.04")])
pc.defineParameter("repository", "Address of the project's git repository", portal.ParameterType.STRING, "",
                   longDescription="Cloned to /opt/medes/source on every node, whose set-up script is then run. "
                   "Without one, nothing is set up: copy the project to the nodes and run scripts/cloudlab/setup there.")
params = pc.bindParameters()
if not 1 <= params.agents <= 200:
    pc.reportError(portal.ParameterError("Between 1 and 200 agents.", ["agents"]))
pc.verifyParameters()

request = pc.makeRequestRSpec()
lan = request.LAN("lan")
lan.best_effort = True
lan.vlan_tagging = False
lan.link_multiplexing = False

for name in ["controller"] + ["agent%d" % i for i in range(params.agents)]:
    node = request.RawPC(name)
    node.hardware_type = params.type
    node.disk_image = params.image
    # Controller is .1, agent I is .(I + 2): scripts/cloudlab/make-cluster-file writes the same.
    number = 1 if name == "controller" else int(name[5:]) + 2
    interface = node.addInterface("if0")
    interface.addAddress(rspec.IPv4Address("10.10.1.%d" % number, "255.255.255.0"))
    lan.addInterface(interface)
    if params.repository:
        node.addService(rspec.Execute(
            shell="bash",
            command="sudo mkdir -p /opt/medes && sudo git clone --depth 1 %s /opt/medes/source && "
                    "sudo /opt/medes/source/scripts/cloudlab/setup >/tmp/medes-setup.log 2>&1; "
                    "sudo mv /tmp/medes-setup.log /var/log/medes-setup.log" % params.repository))

pc.printRequestRSpec(request)
